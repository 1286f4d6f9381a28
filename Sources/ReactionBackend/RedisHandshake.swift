import RedisStore

/// What is said first on a new connection, in one round trip: who we are, which database, who the server is.
enum RedisHandshake {
    static func commands(_ settings: Settings) -> CommandBuffer {
        var commands = CommandBuffer()
        if authenticates(settings) {
            commands.begin("AUTH", arguments: settings.redisUser.isEmpty ? 1 : 2)
            if !settings.redisUser.isEmpty { commands.append(settings.redisUser.utf8) }
            commands.append(settings.redisPassword.utf8)
        }
        if database(settings) != 0 {
            commands.begin("SELECT", arguments: 1)
            commands.append(database(settings))
        }
        commands.begin("INFO", arguments: 1)
        commands.append("server")
        return commands
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

    /// The server's run id, which changes with a restart.
    static func runID(in replies: ReplyArena, _ settings: Settings) throws(Failure) -> [UInt8] {
        var position = 0
        func next() throws(Failure) -> ArraySlice<UInt8> {
            if let error = replies.error(at: position) {
                // The refusals of AUTH before Redis 6, and those of a server without a password, have no word of their own.
                let isAuthentication = position == 0 && authenticates(settings) && error.starts(with: "ERR ".utf8)
                if isAuthentication {
                    throw .redisRefused("The server says: \(String(decoding: error, as: UTF8.self))")
                }
                throw .redis(error: error)
            }
            defer { position = replies.position(after: position) }
            return replies.text(at: position)
        }
        if authenticates(settings) { _ = try next() }
        if database(settings) != 0 { _ = try next() }
        guard let runID = RedisInfo.value(of: "run_id", in: try next()), !runID.isEmpty else {
            throw .redisNonsense("The server does not tell its run_id.")
        }
        return Array(runID)
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

    private static func authenticates(_ settings: Settings) -> Bool { !settings.redisPassword.isEmpty }

    private static func database(_ settings: Settings) -> Int64 {
        if case .success(let endpoint) = settings.redis { endpoint.database } else { 0 }
    }
}

/// The text that INFO answers: lines of `name:value`.
enum RedisInfo {
    static func value(of name: StaticString, in text: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
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
