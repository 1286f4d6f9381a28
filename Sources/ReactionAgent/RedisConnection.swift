internal import CHiredis
internal import Glibc
internal import Pipeline
internal import RedisStore

/// A reply of Redis.
enum RedisReply: Equatable {
    case null
    case integer(Int64)
    case text(String)
    /// A text that is no UTF-8.
    case data([UInt8])
    case error(String)
    case array([RedisReply])

    /// Of a text, whatever it holds.
    var bytes: [UInt8]? {
        switch self {
        case .text(let text): Array(text.utf8)
        case .data(let bytes): bytes
        default: nil
        }
    }

    var isMissingScript: Bool {
        guard case .error(let text) = self else { return false }
        return text.hasPrefix("NOSCRIPT")
    }
}

/// One blocking hiredis connection with a time-out for everything. Not Sendable: it belongs to the actor that opened it.
final class RedisConnection {
    private let context: UnsafeMutablePointer<redisContext>

    /// hiredis writes to a connection that the server has closed without asking for an error instead of a signal.
    private static let brokenPipeIsAnError: Void = { signal(SIGPIPE, SIG_IGN) }()

    init(settings: RedisSettings) throws(CacheError) {
        Self.brokenPipeIsAnError
        let timeout = Self.timeval(settings.connectTimeout)
        let opened =
            switch settings.address {
            case .tcp(let host, let port): redisConnectWithTimeout(host, port, timeout)
            case .unix(let path): redisConnectUnixWithTimeout(path, timeout)
            }
        guard let opened else { throw CacheError(message: "out of memory") }
        context = opened
        guard context.pointee.err == 0 else { throw failure() }
        guard redisSetTimeout(context, Self.timeval(settings.timeout)) == REDIS_OK else { throw failure() }
        if let password = settings.password {
            let user = settings.user.map { [$0] } ?? []
            try expectOK(["AUTH"] + user + [password])
        }
        if settings.database != 0 { try expectOK(["SELECT", "\(settings.database)"]) }
    }

    deinit {
        redisFree(context)
    }

    func command(_ arguments: String...) throws(CacheError) -> RedisReply {
        try command(arguments)
    }

    func command(_ arguments: [String]) throws(CacheError) -> RedisReply {
        let copies = arguments.map { strdup($0) }
        defer { copies.forEach { free($0) } }
        var pointers = copies.map { UnsafePointer($0) }
        let lengths = arguments.map(\.utf8.count)
        guard let reply = redisCommandArgv(context, Int32(arguments.count), &pointers, lengths) else { throw failure() }
        defer { freeReplyObject(reply) }
        let decoded = Self.decode(reply.assumingMemoryBound(to: redisReply.self))
        if case .error(let text) = decoded { throw CacheError(message: "\(arguments[0]): \(text)") }
        return decoded
    }

    /// Sends all the commands, then reads all the replies, errors among them.
    func pipeline(_ commands: CommandBuffer) throws(CacheError) -> [RedisReply] {
        let appended = commands.bytes.withUnsafeBytes { bytes in
            redisAppendFormattedCommand(context, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        guard appended == REDIS_OK else { throw failure() }
        var replies: [RedisReply] = []
        for _ in 0..<commands.commandCount {
            var reply: UnsafeMutableRawPointer?
            guard redisGetReply(context, &reply) == REDIS_OK, let reply else { throw failure() }
            defer { freeReplyObject(reply) }
            replies.append(Self.decode(reply.assumingMemoryBound(to: redisReply.self)))
        }
        return replies
    }

    private func expectOK(_ arguments: [String]) throws(CacheError) {
        guard try command(arguments) == .text("OK") else {
            throw CacheError(message: "\(arguments[0]) was not answered with OK")
        }
    }

    private func failure() -> CacheError {
        let text = withUnsafeBytes(of: context.pointee.errstr) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        return CacheError(message: "Redis connection failed: \(text)")
    }

    private static func timeval(_ duration: Duration) -> Glibc.timeval {
        let (seconds, attoseconds) = duration.components
        return Glibc.timeval(tv_sec: Int(seconds), tv_usec: Int(attoseconds / 1_000_000_000_000))
    }

    private static func decode(_ reply: UnsafeMutablePointer<redisReply>) -> RedisReply {
        let bytes = UnsafeRawBufferPointer(start: reply.pointee.str, count: reply.pointee.len)
        func text() -> String { String(decoding: bytes, as: UTF8.self) }
        return switch reply.pointee.type {
        case REDIS_REPLY_INTEGER: .integer(reply.pointee.integer)
        case REDIS_REPLY_STRING, REDIS_REPLY_STATUS:
            String(validating: bytes, as: UTF8.self).map(RedisReply.text) ?? .data(Array(bytes))
        case REDIS_REPLY_ERROR: .error(text())
        case REDIS_REPLY_ARRAY:
            .array((0..<reply.pointee.elements).compactMap { reply.pointee.element[$0].map(decode) })
        default: .null
        }
    }
}
