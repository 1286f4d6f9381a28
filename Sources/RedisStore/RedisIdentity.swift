/// Who a server says it is, in `INFO server replication`.
public struct RedisIdentity: Equatable, Sendable {
    /// Names an unbroken life of the server's data, for stamps: the process, and its replication id, which is another one after each
    /// promotion. A master that was demoted and is promoted again is the same process with data of which it may have lost some.
    public var history: [UInt8]
    public var isMaster: Bool
    public var isCluster: Bool
    public var isSentinel: Bool
    private let runID: [UInt8]

    /// Of a server that has not said anything yet.
    public init() {
        runID = []
        history = []
        isMaster = false
        isCluster = false
        isSentinel = false
    }

    /// Nil if the text tells no run id. (A sentinel has no replication.)
    public init?(info: ArraySlice<UInt8>) {
        guard let runID = RedisInfo.value(of: "run_id", in: info), !runID.isEmpty else { return nil }
        let mode = RedisInfo.value(of: "redis_mode", in: info)
        self.runID = Array(runID)
        isCluster = mode?.elementsEqual("cluster".utf8) == true
        isSentinel = mode?.elementsEqual("sentinel".utf8) == true
        history = []
        isMaster = false
        update(info: info)
    }

    /// Takes over what `INFO replication` says later on the same connection.
    public mutating func update(info: ArraySlice<UInt8>) {
        history = runID + (RedisInfo.value(of: "master_replid", in: info) ?? [])
        isMaster = RedisInfo.value(of: "role", in: info)?.elementsEqual("master".utf8) == true
    }
}

/// The text that INFO answers: lines of `name:value`.
public enum RedisInfo {
    public static func value(of name: StaticString, in text: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
        name.withUTF8Buffer { name in
            var rest = text
            while !rest.isEmpty {
                let line = rest.prefix { $0 != UInt8(ascii: "\n") }
                rest = rest[line.endIndex...].dropFirst()
                let value = line.dropFirst(name.count)
                guard line.starts(with: name), value.first == UInt8(ascii: ":") else { continue }
                return value.dropFirst().prefix { $0 != UInt8(ascii: "\r") }
            }
            return nil
        }
    }
}
