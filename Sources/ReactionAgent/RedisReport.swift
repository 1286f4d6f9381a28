public import Pipeline
internal import PostgresSource
internal import RedisStore

/// What the servers of Redis say of themselves.
public struct RedisReport: Sendable, Equatable {
    /// Those that have keys.
    public var servers: [Server]
    public var isCluster: Bool
    /// Slots of the cluster that no server has.
    public var missingSlots: Int

    public struct Server: Sendable, Equatable {
        public var version: String
        public var maxmemoryPolicy: String
        /// Bytes; the limit is nil if there is none.
        public var usedMemory: Int64
        public var maxMemory: Int64?
        /// Since the server started, for want of memory.
        public var evictedKeys: Int64
        /// Microseconds since 1970-01-01 UTC by the server's clock.
        public var time: Int64
    }

    /// Asks the servers over connections of its own.
    public static func ask(_ settings: RedisSettings) async throws(CacheError) -> RedisReport {
        try await RedisProbe(settings).ask()
    }
}

/// A server that has keys.
struct RedisNode: Sendable, Equatable {
    /// `host:port`, or a socket's path.
    var place: String
    /// Nil if it did not answer.
    var report: RedisReport.Server?
}

/// Keeps blocking questions off the cooperative pool.
actor RedisProbe {
    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.redis.probe")
    private let client: RedisClient

    init(_ settings: RedisSettings) {
        client = RedisClient(settings: settings)
    }

    /// Fails if one of the servers does not answer.
    func ask() throws(CacheError) -> RedisReport {
        let isCluster = try client.isCluster()
        let (servers, missingSlots) = try client.each(Self.ask)
        return RedisReport(servers: servers, isCluster: isCluster, missingSlots: missingSlots)
    }

    /// Fails if it cannot be found out which servers there are.
    func nodes() throws(CacheError) -> [RedisNode] {
        try client.eachByItself(Self.ask).map { place, report in
            switch place {
            case .tcp(let host, let port): RedisNode(place: "\(host):\(port)", report: report)
            case .unixSocket(let path): RedisNode(place: path, report: report)
            }
        }
    }

    private static func ask(_ connection: RedisConnection) throws(CacheError) -> RedisReport.Server {
        guard case .text(let text) = try connection.command("INFO", "server", "memory", "stats") else {
            throw CacheError(message: "INFO was not answered with a text")
        }
        let info = Array(text.utf8)[...]
        func value(_ name: StaticString) throws(CacheError) -> String {
            guard let value = RedisInfo.value(of: name, in: info) else {
                throw CacheError(message: "INFO has no \(name)")
            }
            return String(decoding: value, as: UTF8.self)
        }
        func number(_ name: StaticString) throws(CacheError) -> Int64 {
            guard let number = Int64(try value(name)) else { throw CacheError(message: "\(name) is no number") }
            return number
        }
        guard case .array(let time) = try connection.command("TIME"), time.count == 2,
            case .text(let seconds) = time[0], case .text(let microseconds) = time[1],
            let seconds = Int64(seconds), let microseconds = Int64(microseconds)
        else { throw CacheError(message: "TIME has no time") }
        let limit = try number("maxmemory")
        return RedisReport.Server(
            version: try value("redis_version"), maxmemoryPolicy: try value("maxmemory_policy"),
            usedMemory: try number("used_memory"), maxMemory: limit == 0 ? nil : limit,
            evictedKeys: try number("evicted_keys"), time: seconds * 1_000_000 + microseconds)
    }
}
