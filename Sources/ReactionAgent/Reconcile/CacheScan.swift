internal import Pipeline
internal import PostgresSource
internal import ReactionModel
internal import RedisStore

/// An entity whose keys are looked at.
struct EntityAddress: Hashable {
    var typeID: Int16
    var id: Int64
}

/// Walks through the keys of Redis, looks at entities, and repairs them. Blocks, so the actor has a thread of its own.
///
/// No command keeps Redis for longer than a few milliseconds: a step of SCAN looks at `keysPerStep` keys, a script at one entity, and
/// what is dropped is freed in Redis's background. After a failure the connection is closed, and the run ends: a cursor of SCAN is worth
/// nothing to another process.
actor CacheScan {
    static let keysPerStep = 1_000

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.redis.scan")
    private let settings: RedisSettings
    private let keys: KeySpace
    private var place: ReconcileSource.Place
    private var types: [Int16: EntityType] = [:]
    private var connection: RedisConnection?
    private var runID: [UInt8] = []
    private var digests: [Script: [UInt8]] = [:]

    init(settings: RedisSettings, place: ReconcileSource.Place) {
        self.settings = settings
        self.place = place
        keys = KeySpace(prefix: Array(place.keyPrefix.utf8))
        types = Self.byID(place)
    }

    /// From now on entities are looked at as of this catalog.
    func use(_ place: ReconcileSource.Place) {
        self.place = place
        types = Self.byID(place)
    }

    private static func byID(_ place: ReconcileSource.Place) -> [Int16: EntityType] {
        Dictionary(place.types.map { ($0.typeID, $0) }) { first, _ in first }
    }

    /// Keys of Redis, with those of others.
    func size() throws(CacheError) -> Int64 {
        try converse { connection throws(CacheError) in
            guard case .integer(let count) = try connection.command("DBSIZE") else {
                throw CacheError(message: "unexpected reply to DBSIZE")
            }
            return count
        }
    }

    /// - Parameter cursor: "0" to begin.
    /// - Returns: the next cursor, nil at the end, and the keys of this step that begin with the database's prefix.
    func step(from cursor: String) throws(CacheError) -> (next: String?, keys: [String]) {
        try converse { connection throws(CacheError) in
            let reply = try connection.command([
                "SCAN", cursor, "MATCH", Self.pattern(place.keyPrefix), "COUNT", "\(Self.keysPerStep)",
            ])
            guard case .array(let parts) = reply, parts.count == 2, case .text(let next) = parts[0],
                case .array(let found) = parts[1]
            else { throw CacheError(message: "unexpected reply to SCAN") }
            return (
                next == "0" ? nil : next,
                found.compactMap { if case .text(let key) = $0 { key } else { nil as String? } }
            )
        }
    }

    static func owners(of place: ReconcileSource.Place) -> KeyOwners {
        KeyOwners(keys: KeySpace(prefix: Array(place.keyPrefix.utf8)), types: place.types)
    }

    /// The key of the entity's counts.
    func name(of entity: EntityAddress) -> String {
        String(decoding: key(of: entity, .counts), as: UTF8.self)
    }

    /// Which of the entities have counts.
    func withCounts(_ entities: [EntityAddress]) throws(CacheError) -> Set<EntityAddress> {
        var commands = CommandBuffer()
        for entity in entities {
            commands.begin("EXISTS", arguments: 1)
            commands.append(key: key(of: entity, .counts))
        }
        guard !entities.isEmpty else { return [] }
        let asked = commands
        return try converse { connection throws(CacheError) in
            let found = zip(entities, try connection.pipeline(asked)).filter { $0.1 == .integer(1) }
            return Set(found.map(\.0))
        }
    }

    /// What there is of the entities, each at a moment of its own.
    func look(at entities: [EntityAddress]) throws(CacheError) -> [EntityAddress: EntityLook] {
        guard !entities.isEmpty else { return [:] }
        return try converse { connection throws(CacheError) in
            var commands = CommandBuffer()
            for entity in entities {
                commands.beginScript(digests[.entityLook] ?? [], keys: EntityLook.Part.allCases.count, arguments: 2)
                for part in EntityLook.Part.allCases { commands.append(key: key(of: entity, part)) }
                commands.append(Int64(EntityLook.mostFields))
                commands.append(Int64(ReactionList.headerWidth))
            }
            let replies = try scripted(commands, over: connection)
            var looks: [EntityAddress: EntityLook] = [:]
            for (entity, reply) in zip(entities, replies) {
                guard let look = EntityLook(reply, stamp: stamp(of: entity)) else { throw Self.unexpected(reply) }
                looks[entity] = look
            }
            return looks
        }
    }

    /// Drops parts of an entity, or all of them and asks for it to be built anew, unless it is another one than was looked at.
    ///
    /// - Returns: whether it was dropped.
    func repair(_ entity: EntityAddress, _ look: EntityLook, _ repair: CacheFault.Repair) throws(CacheError) -> Bool {
        let parts = repair == .rebuild ? look.present : EntityCondition.superfluous(look)
        guard repair != .none, let type = types[entity.typeID], !parts.isEmpty else { return false }
        return try converse { connection throws(CacheError) in
            var commands = CommandBuffer()
            commands.beginScript(digests[.entityDrop] ?? [], keys: parts.count + 1, arguments: 1)
            for part in [.counts] + parts { commands.append(key: key(of: entity, part)) }
            commands.append(look.life)
            let replies = try scripted(commands, over: connection)
            guard case .integer(let dropped) = replies[0] else { throw Self.unexpected(replies[0]) }
            guard dropped >= 0, repair == .rebuild else { return dropped >= 0 }
            // If this process dies before, the next one who misses the entity asks for it.
            _ = try connection.command(["ZINCRBY", wantedKey(type), "1", "\(entity.id)"])
            return true
        }
    }

    /// Gives the keys of entities the full time to live again. Returns how many there were.
    func keep(_ entities: [(EntityAddress, EntityLook)], seconds: Int64) throws(CacheError) -> Int {
        guard !entities.isEmpty else { return 0 }
        return try converse { connection throws(CacheError) in
            var commands = CommandBuffer()
            for (entity, look) in entities {
                commands.beginScript(digests[.entityKeep] ?? [], keys: EntityLook.Part.allCases.count, arguments: 2)
                for part in EntityLook.Part.allCases { commands.append(key: key(of: entity, part)) }
                commands.append(look.life)
                commands.append(seconds)
            }
            return try scripted(commands, over: connection).count { $0 == .integer(1) }
        }
    }

    /// Drops a key that is no entity's.
    func unlink(_ key: String) throws(CacheError) -> Bool {
        try converse { connection throws(CacheError) in
            try connection.command(["UNLINK", key]) == .integer(1)
        }
    }

    // MARK: Pieces

    private func key(of entity: EntityAddress, _ part: EntityLook.Part) -> [UInt8] {
        guard let type = types[entity.typeID] else { return [] }
        return keys.key(
            type.entityKey, id: entity.id, shardCount: type.shardCount, suffix: KeySpace.entitySuffixes[part.rawValue])
    }

    private func wantedKey(_ type: EntityType) -> String { String(decoding: keys.wanted(of: type.name), as: UTF8.self) }

    private func stamp(of entity: EntityAddress) -> Stamp {
        Stamp(
            redisRunID: runID, systemIdentifier: place.systemIdentifier, timeline: place.timeline,
            epoch: types[entity.typeID]?.epoch ?? 0)
    }

    /// A glob pattern that matches what begins with a prefix.
    private static func pattern(_ prefix: String) -> String {
        prefix.reduce(into: "") { pattern, character in
            if "*?[]\\^".contains(character) { pattern.append("\\") }
            pattern.append(character)
        } + "*"
    }

    private static func unexpected(_ reply: RedisReply) -> CacheError {
        CacheError(message: "unexpected reply to a script: \(reply)")
    }

    /// The replies to calls of scripts, which are loaded again if somebody has flushed them.
    private func scripted(
        _ commands: CommandBuffer, over connection: RedisConnection
    ) throws(CacheError) -> [RedisReply] {
        let replies = try connection.pipeline(commands)
        guard replies.contains(where: \.isMissingScript) else { return replies }
        try load(over: connection)
        return try connection.pipeline(commands)
    }

    private func load(over connection: RedisConnection) throws(CacheError) {
        for script in [Script.entityLook, .entityDrop, .entityKeep] {
            var commands = CommandBuffer()
            commands.begin("SCRIPT", arguments: 2)
            commands.append("LOAD" as StaticString)
            commands.append(script.source)
            guard case .text(let digest)? = try connection.pipeline(commands).first else {
                throw CacheError(message: "Redis did not load a script")
            }
            digests[script] = Array(digest.utf8)
        }
    }

    private func converse<Result>(
        _ body: (RedisConnection) throws(CacheError) -> Result
    ) throws(CacheError) -> Result {
        do throws(CacheError) {
            if connection == nil {
                let opened = try RedisConnection(settings: settings)
                runID = Array(try RedisCache.identity(over: opened).runID.utf8)
                try load(over: opened)
                connection = opened
            }
            guard let connection else { throw CacheError(message: "no connection") }
            return try body(connection)
        } catch {
            connection = nil
            throw error
        }
    }
}

extension EntityLook {
    /// The reply of `entity_look.lua`; nil if it has another shape.
    init?(_ reply: RedisReply, stamp: Stamp) {
        self.init()
        guard case .array(let parts) = reply, parts.count == 10, case .integer(let idle) = parts[0],
            case .integer(let timeToLive) = parts[1], case .array(let types) = parts[2],
            types.count == Part.allCases.count, case .array(let fields) = parts[3], fields.count.isMultiple(of: 2),
            case .integer(let reactionsLength) = parts[6], case .integer(let sampleLength) = parts[8]
        else { return nil }
        let texts = [4, 5, 7, 9].compactMap { parts[$0].bytes }
        guard texts.count == 4 else { return nil }
        self.idle = idle < 0 ? nil : idle
        self.timeToLive = timeToLive < 0 ? nil : timeToLive
        for (part, type) in zip(Part.allCases, types) where type != .text("none") {
            present.insert(part)
            if type != .text(part.type) { wrong.insert(part) }
        }
        for index in stride(from: 0, to: fields.count, by: 2) {
            guard let name = fields[index].bytes, let value = fields[index + 1].bytes else { return nil }
            add(String(decoding: name, as: UTF8.self), value, stamp)
        }
        total = String(decoding: texts[0], as: UTF8.self)
        flag = String(decoding: texts[1], as: UTF8.self)
        reactions = list(length: reactionsLength, header: texts[2])
        sample = list(length: sampleLength, header: texts[3])
    }
}
