import RedisStore

/// Who a link says it is.
struct RedisLogin: Equatable {
    var user = ""
    /// Empty: the server is not told who we are.
    var password = ""
    var database: Int64 = 0

    var authenticates: Bool { !password.isEmpty }
}

/// What is said first on a new connection, in one round trip: who we are, which database, who the server is.
enum RedisHandshake {
    static func commands(_ login: RedisLogin) -> CommandBuffer {
        var commands = CommandBuffer()
        if login.authenticates {
            commands.begin("AUTH", arguments: login.user.isEmpty ? 1 : 2)
            if !login.user.isEmpty { commands.append(login.user.utf8) }
            commands.append(login.password.utf8)
        }
        if login.database != 0 {
            commands.begin("SELECT", arguments: 1)
            commands.append(login.database)
        }
        commands.begin("INFO", arguments: 2)
        commands.append("server")
        commands.append("replication")
        return commands
    }

    /// Asks whether the server is still what it was.
    static func appendCheck(to commands: inout CommandBuffer) {
        commands.begin("INFO", arguments: 1)
        commands.append("replication")
    }

    static func loadingCommands() -> CommandBuffer {
        var commands = CommandBuffer()
        for script in [Script.userMapMiss, .userMapFill, .userMapApply, .userMapTouch] {
            commands.begin("SCRIPT", arguments: 2)
            commands.append("LOAD")
            commands.append(script.source)
        }
        return commands
    }

    /// What the server answers to `commands`.
    static func identity(in replies: ReplyArena, _ login: RedisLogin) throws(Failure) -> RedisIdentity {
        var position = 0
        func next() throws(Failure) -> ArraySlice<UInt8> {
            if let error = replies.error(at: position) { throw refusal(error, isFirst: position == 0, login) }
            defer { position = replies.position(after: position) }
            return replies.text(at: position)
        }
        if login.authenticates { _ = try next() }
        if login.database != 0 { _ = try next() }
        guard let identity = RedisIdentity(info: try next()) else {
            throw .redisNonsense("The server does not tell its run_id.")
        }
        return identity
    }

    private static func refusal(_ error: ArraySlice<UInt8>, isFirst: Bool, _ login: RedisLogin) -> Failure {
        // The refusals of AUTH before Redis 6, and those of a server without a password, have no word of their own.
        if isFirst, login.authenticates, error.starts(with: "ERR ".utf8) {
            return .redisRefused("The server says: \(String(decoding: error, as: UTF8.self))")
        }
        if error.starts(with: "ERR SELECT is not allowed in cluster mode".utf8) {
            return .notConfigured(
                "reactions.redis_url is not valid", detail: "A Redis Cluster has one database, number 0.",
                hint: "Leave the number of the database out.")
        }
        return .redis(error: error)
    }

    /// What the server answers to `loadingCommands`.
    static func digests(in replies: ReplyArena) throws(Failure) -> ScriptDigests {
        var position = 0
        func next() throws(Failure) -> [UInt8] {
            if let error = replies.error(at: position) { throw .redis(error: error) }
            defer { position = replies.position(after: position) }
            return Array(replies.text(at: position))
        }
        var digests = ScriptDigests()
        digests.miss = try next()
        digests.fill = try next()
        digests.apply = try next()
        digests.touch = try next()
        return digests
    }
}
