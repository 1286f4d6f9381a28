public import CHiredis
import Glibc
import Synchronization

/// A private Redis: Unix socket in its own directory and loopback TCP on its own port, nothing saved to disk unless configured.
public final class RedisServer: Sendable {
    public let directory: TemporaryDirectory
    public let port: UInt16
    public var socketPath: String { directory.file("redis.sock") }
    private let arguments: [String]
    private let password: String?
    private let state: Mutex<ServerProcess>

    /// One server without settings of its own, for every test that uses its own key prefix.
    public static let shared = Shared { try await RedisServer.start() }

    /// - Parameters:
    ///   - configuration: directives and their arguments, as in redis.conf: `["maxmemory 10mb"]`.
    ///   - password: of the default user, which `connect` uses.
    public static func start(configuration: [String] = [], password: String? = nil) async throws -> RedisServer {
        try await start(
            configuration: ["save \"\"", "appendonly no"] + configuration, password: password, isSentinel: false)
    }

    static func startSentinel(configuration: [String], password: String?) async throws -> RedisServer {
        try await start(configuration: configuration, password: password, isSentinel: true)
    }

    private static func start(
        configuration: [String], password: String?, isSentinel: Bool
    ) async throws -> RedisServer {
        let directory = try TemporaryDirectory()
        let port = try FreePort.next()
        let lines =
            [
                "bind 127.0.0.1", "port \(port)", "unixsocket \(directory.file("redis.sock"))", "unixsocketperm 777",
                "dir \(directory.path)", "daemonize no",
            ] + configuration + (password.map { ["requirepass \($0)"] } ?? [])
        // PostgreSQL's user reaches the socket through the directory.
        chmod(directory.path, 0o755)
        try directory.write("redis.conf", lines.joined(separator: "\n") + "\n")
        let arguments = ["/usr/bin/redis-server", directory.file("redis.conf")] + (isSentinel ? ["--sentinel"] : [])
        let process = try ServerProcess(arguments, logPath: directory.file("log"))
        let server = RedisServer(
            directory: directory, port: port, arguments: arguments, password: password, process: process)
        try await server.waitUntilReady()
        return server
    }

    private init(
        directory: TemporaryDirectory, port: UInt16, arguments: [String], password: String?, process: ServerProcess
    ) {
        self.directory = directory
        self.port = port
        self.arguments = arguments
        self.password = password
        self.state = Mutex(process)
    }

    deinit { kill() }

    private func waitUntilReady() async throws {
        try await process.waitUntil {
            switch try? RedisConnection(socketPath: socketPath).command("PING") {
            case nil: false
            case .error(let text): !text.hasPrefix("LOADING")
            // Also one that asks for a password.
            default: true
            }
        }
    }

    public var process: ServerProcess { state.withLock { $0 } }

    public func connect() throws -> RedisConnection {
        let connection = try RedisConnection(socketPath: socketPath)
        if let password { try connection.command("AUTH", password) }
        return connection
    }

    /// A clean shutdown.
    public func stop() { process.stop(SIGTERM) }
    public func kill() { process.stop(SIGKILL) }
    /// Stops answering without closing a connection.
    public func pause() { process.signal(SIGSTOP) }
    public func resume() { process.signal(SIGCONT) }

    /// Starts again on the same port and socket, with another run id.
    public func restart() async throws {
        kill()
        let process = try ServerProcess(arguments, logPath: directory.file("log"))
        state.withLock { $0 = process }
        try await waitUntilReady()
    }
}

/// A Redis reply.
public enum RedisReply: Equatable, Sendable {
    case null
    case integer(Int64)
    case string(String)
    case error(String)
    case array([RedisReply])

    public var string: String? {
        if case .string(let text) = self { text } else { nil }
    }

    public var integer: Int64? {
        if case .integer(let number) = self { number } else { nil }
    }

    public var array: [RedisReply]? {
        if case .array(let replies) = self { replies } else { nil }
    }
}

/// A blocking connection for what a test wants to tell Redis. One user at a time.
public final class RedisConnection: @unchecked Sendable {
    // Safe because: hiredis keeps no thread's state in a context, and a test uses it from one task at a time.
    public let context: UnsafeMutablePointer<redisContext>

    public init(socketPath: String) throws {
        guard let context = redisConnectUnix(socketPath) else { throw TestSupportError("hiredis is out of memory") }
        self.context = context
        guard context.pointee.err == 0 else { throw TestSupportError("cannot connect to Redis at \(socketPath)") }
        redisSetTimeout(context, timeval(tv_sec: 20, tv_usec: 0))
    }

    deinit { redisFree(context) }

    @discardableResult
    public func command(_ arguments: String...) throws -> RedisReply { try command(arguments) }

    @discardableResult
    public func command(_ arguments: [String]) throws -> RedisReply {
        try command(bytes: arguments.map { Array($0.utf8) })
    }

    /// Arguments of any bytes.
    @discardableResult
    public func command(bytes arguments: [[UInt8]]) throws -> RedisReply {
        let copies = arguments.map { argument in
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: max(argument.count, 1), alignment: 1)
            copy.copyBytes(from: argument)
            return copy
        }
        defer { copies.forEach { $0.deallocate() } }
        var pointers = copies.map { UnsafePointer($0.baseAddress?.assumingMemoryBound(to: CChar.self)) }
        guard let reply = redisCommandArgv(context, Int32(arguments.count), &pointers, arguments.map(\.count)) else {
            throw TestSupportError("Redis did not answer \(String(decoding: arguments.first ?? [], as: UTF8.self))")
        }
        defer { freeReplyObject(reply) }
        return decode(reply.assumingMemoryBound(to: redisReply.self))
    }

    private func decode(_ reply: UnsafeMutablePointer<redisReply>) -> RedisReply {
        func text() -> String {
            String(decoding: UnsafeRawBufferPointer(start: reply.pointee.str, count: reply.pointee.len), as: UTF8.self)
        }
        return switch reply.pointee.type {
        case REDIS_REPLY_INTEGER: .integer(reply.pointee.integer)
        case REDIS_REPLY_STRING, REDIS_REPLY_STATUS: .string(text())
        case REDIS_REPLY_ERROR: .error(text())
        case REDIS_REPLY_ARRAY:
            .array(
                (0..<reply.pointee.elements).compactMap { reply.pointee.element[$0].map { decode($0) } })
        default: .null
        }
    }
}
