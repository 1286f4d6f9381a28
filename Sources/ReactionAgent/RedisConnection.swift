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
}

/// One blocking hiredis connection to one server, with a time-out for everything. Not Sendable: it belongs to the actor that opened it.
///
/// After any failure it is to be dropped: a half-read reply is never mistaken for the next one.
final class RedisConnection {
    let place: RedisPlace
    /// Who the server said it is; asked again with the first commands after a second (as in the backend's `RedisLink`).
    private(set) var identity: RedisIdentity
    private var identifiedAt = ContinuousClock.now
    private static let identityInterval: Duration = .seconds(1)
    /// Under which the server knows the scripts that it was given.
    private var digests: [Script: [UInt8]] = [:]
    private let context: UnsafeMutablePointer<redisContext>
    /// Of what was sent: whether the identity was asked for before it, and whether ASKING was said before each command.
    private var checksIdentity = false
    private var isAsking = false

    /// hiredis writes to a connection that the server has closed without asking for an error instead of a signal.
    private static let brokenPipeIsAnError: Void = { signal(SIGPIPE, SIG_IGN) }()

    /// - Parameter database: of a server that is not a sentinel; a cluster has number 0 only.
    init(
        to place: RedisPlace, login: RedisSettings.Login, database: Int64, settings: RedisSettings
    ) throws(CacheError) {
        Self.brokenPipeIsAnError
        self.place = place
        context = try Self.connect(to: place, settings)
        // Every property has a value before anything can fail: `deinit` then frees the context.
        identity = RedisIdentity()
        guard context.pointee.err == 0 else { throw failure() }
        guard redisSetTimeout(context, Self.timeval(settings.timeout)) == REDIS_OK else { throw failure() }
        if let password = login.password {
            try expectOK(["AUTH"] + (login.user.map { [$0] } ?? []) + [password])
        }
        if database != 0 { try expectOK(["SELECT", "\(database)"]) }
        guard case .text(let info) = try command("INFO", "server", "replication"),
            let identity = RedisIdentity(info: Array(info.utf8)[...])
        else { throw CacheError(message: "INFO has no run id") }
        self.identity = identity
        try checkRole()
    }

    private static func connect(
        to place: RedisPlace, _ settings: RedisSettings
    ) throws(CacheError) -> UnsafeMutablePointer<redisContext> {
        let timeout = timeval(settings.connectTimeout)
        let opened =
            switch place {
            case .tcp(let host, let port): redisConnectWithTimeout(host, Int32(port), timeout)
            case .unixSocket(let path): redisConnectUnixWithTimeout(path, timeout)
            }
        guard let opened else { throw CacheError(message: "out of memory") }
        return opened
    }

    /// A replica of a cluster says itself where its master is.
    private func checkRole() throws(CacheError) {
        guard identity.isMaster || identity.isCluster || identity.isSentinel else {
            throw CacheError(message: "the Redis server is a replica")
        }
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
        try send(commands)
        return try receive(commands.commandCount)
    }

    /// - Parameter isAsking: whether each command is for a slot that is on its way to the server.
    func send(_ commands: CommandBuffer, isAsking: Bool = false) throws(CacheError) {
        self.isAsking = isAsking
        checksIdentity = ContinuousClock.now - identifiedAt >= Self.identityInterval
        if checksIdentity {
            identifiedAt = .now
            var check = CommandBuffer()
            check.begin("INFO", arguments: 1)
            check.append("replication" as StaticString)
            try append(check)
        }
        if isAsking {
            var asking = CommandBuffer()
            for command in 0..<commands.commandCount {
                asking.begin("ASKING", arguments: 0)
                asking.append(command, of: commands)
            }
            try append(asking)
        } else {
            try append(commands)
        }
        var isDone: Int32 = 0
        while isDone == 0 {
            guard redisBufferWrite(context, &isDone) == REDIS_OK else { throw failure() }
        }
    }

    /// The replies to what was sent.
    func receive(_ count: Int) throws(CacheError) -> [RedisReply] {
        if checksIdentity {
            guard case .text(let info) = try next() else { throw CacheError(message: "INFO was not answered") }
            identity.update(info: Array(info.utf8)[...])
            try checkRole()
        }
        var replies: [RedisReply] = []
        replies.reserveCapacity(count)
        for _ in 0..<count {
            if isAsking { _ = try next() }
            replies.append(try next())
        }
        return replies
    }

    /// The digest of a script, which the server is given when it is first asked for.
    func digest(of script: Script) throws(CacheError) -> [UInt8] {
        if let digest = digests[script] { return digest }
        return try load(script)
    }

    /// Gives the server a script, also one that it may have forgotten.
    @discardableResult
    func load(_ script: Script) throws(CacheError) -> [UInt8] {
        var commands = CommandBuffer()
        commands.begin("SCRIPT", arguments: 2)
        commands.append("LOAD" as StaticString)
        commands.append(script.source)
        guard case .text(let digest)? = try pipeline(commands).first else {
            throw CacheError(message: "Redis did not load a script")
        }
        digests[script] = Array(digest.utf8)
        return Array(digest.utf8)
    }

    private func append(_ commands: CommandBuffer) throws(CacheError) {
        let appended = commands.bytes.withUnsafeBytes { bytes in
            redisAppendFormattedCommand(context, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        guard appended == REDIS_OK else { throw failure() }
    }

    private func next() throws(CacheError) -> RedisReply {
        var reply: UnsafeMutableRawPointer?
        guard redisGetReply(context, &reply) == REDIS_OK, let reply else { throw failure() }
        defer { freeReplyObject(reply) }
        return Self.decode(reply.assumingMemoryBound(to: redisReply.self))
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
