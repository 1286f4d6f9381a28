import CHiredis
import Foundation

/// A reply of Redis.
enum Reply: Hashable, ExpressibleByIntegerLiteral, ExpressibleByStringLiteral, ExpressibleByArrayLiteral,
    ExpressibleByNilLiteral
{
    case none
    case integer(Int64)
    case text(String)
    case error(String)
    case array([Reply])

    init(nilLiteral: ()) { self = .none }
    init(integerLiteral value: Int64) { self = .integer(value) }
    init(stringLiteral value: String) { self = .text(value) }
    init(arrayLiteral elements: Reply...) { self = .array(elements) }

    init(_ reply: redisReply) {
        let text = reply.str.map {
            String(decoding: UnsafeRawBufferPointer(start: $0, count: Int(reply.len)), as: UTF8.self)
        }
        switch reply.type {
        case REDIS_REPLY_INTEGER: self = .integer(reply.integer)
        case REDIS_REPLY_STRING, REDIS_REPLY_STATUS: self = .text(text ?? "")
        case REDIS_REPLY_ERROR: self = .error(text ?? "")
        case REDIS_REPLY_ARRAY:
            let elements = UnsafeBufferPointer(start: reply.element, count: Int(reply.elements))
            self = .array(elements.compactMap { $0.map { Reply($0.pointee) } })
        default: self = .none
        }
    }
}

struct RedisFailure: Error, CustomStringConvertible {
    var description: String
}

/// A redis-server of the test's own in a temporary directory, reached over its socket; stopped when released.
final class RedisServer {
    private let process = Process()
    private let directory = FileManager.default.temporaryDirectory
        .appending(path: "rx-redis-\(UUID().uuidString.prefix(8))")
    private var connection: UnsafeMutablePointer<redisContext>?

    init(_ options: String...) async throws {
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        let socket = directory.appending(path: "socket").path
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments =
            ["redis-server", "--port", "0", "--unixsocket", socket, "--dir", directory.path, "--save", ""] + options
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        try await eventually {
            guard let attempt = redisConnectUnix(socket) else { return false }
            guard attempt.pointee.err == 0 else {
                redisFree(attempt)
                return false
            }
            connection = attempt
            return true
        }
    }

    deinit {
        connection.map { redisFree($0) }
        // Nothing milder: the child has the blocked signals of the thread that started it.
        kill(process.processIdentifier, SIGKILL)
        try? FileManager.default.removeItem(at: directory)
    }

    @discardableResult
    func callAsFunction(_ arguments: [String]) throws -> Reply {
        let copies = arguments.map { strdup($0) }
        defer { copies.forEach { free($0) } }
        var pointers = copies.map { UnsafePointer($0) }
        var lengths = arguments.map(\.utf8.count)
        guard let raw = redisCommandArgv(connection, Int32(arguments.count), &pointers, &lengths) else {
            throw RedisFailure(description: "no reply to \(arguments[0])")
        }
        defer { freeReplyObject(raw) }
        return Reply(raw.load(as: redisReply.self))
    }

    @discardableResult
    func callAsFunction(_ arguments: String...) throws -> Reply { try self(arguments) }

    /// The fields of a hash.
    func fields(_ key: String) throws -> [String: String] {
        guard case .array(let values) = try self("HGETALL", key) else { return [:] }
        let texts = values.map { if case .text(let text) = $0 { text } else { "" } }
        return Dictionary(
            uniqueKeysWithValues: stride(from: 0, to: texts.count, by: 2).map { (texts[$0], texts[$0 + 1]) })
    }
}

/// Polls until `condition` holds.
func eventually(within limit: Duration = .seconds(120), _ condition: () throws -> Bool) async throws {
    let deadline = ContinuousClock.now + limit
    while try !condition() {
        guard ContinuousClock.now < deadline else { throw RedisFailure(description: "not so within \(limit)") }
        try await Task.sleep(for: .milliseconds(5))
    }
}

/// A TCP port of the loopback address that was free a moment ago.
func freePort() throws -> Int {
    let socket = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(socket) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = INADDR_LOOPBACK.bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let isBound = withUnsafeMutableBytes(of: &address) { bytes in
        let pointer = bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self)
        return bind(socket, pointer, length) == 0 && getsockname(socket, pointer, &length) == 0
    }
    guard isBound else { throw RedisFailure(description: "no free port") }
    return Int(UInt16(bigEndian: address.sin_port))
}
