import RedisStore

/// What is said first on a new connection, in one round trip: who we are, which database, who the server is, and the scripts.
enum RedisHandshake {
    struct Outcome {
        /// Names the server process; it changes with a restart.
        var runID: [UInt8]
        var digests: ScriptDigests
    }

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
        commands.append(commandsOf: loadingCommands())
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

    static func outcome(of replies: ReplyArena, _ settings: Settings) throws(Failure) -> Outcome {
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
        var digests = ScriptDigests()
        digests.miss = Array(try next())
        digests.fill = Array(try next())
        digests.apply = Array(try next())
        digests.touch = Array(try next())
        return Outcome(runID: Array(runID), digests: digests)
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
            for line in text.split(separator: UInt8(ascii: "\n")) where line.starts(with: name) {
                let value = line.dropFirst(name.count)
                guard value.first == UInt8(ascii: ":") else { continue }
                return value.dropFirst().prefix { $0 != UInt8(ascii: "\r") }
            }
            return nil
        }
    }
}
