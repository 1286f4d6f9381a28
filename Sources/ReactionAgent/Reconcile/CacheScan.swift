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
/// what is dropped is freed in Redis's background. A failure ends the run: a cursor of SCAN is worth nothing to another process.
actor CacheScan {
    static let keysPerStep = 1_000
    /// Redis serves nobody else before it is through with what it has read of one client; a list of 10,000 takes it a millisecond.
    private static let looksPerExchange = 16

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.redis.scan")
    private let client: RedisClient
    private var place: ReconcileSource.Place
    private var keys: KeySpace
    private var types: [Int16: EntityType] = [:]
    /// Where SCAN goes on at each server that has keys; nil where it is through.
    private var cursors: [RedisPlace: String?] = [:]

    init(settings: RedisSettings, place: ReconcileSource.Place) {
        client = RedisClient(settings: settings, keyPrefix: place.keyPrefix)
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

    /// Finds Redis, and returns how many keys it has, with those of others.
    func begin() throws(CacheError) -> Int64 {
        keys = try client.keySpace()
        cursors = [:]
        let counts = try client.each { connection throws(CacheError) in
            guard case .integer(let count) = try connection.command("DBSIZE") else {
                throw CacheError(message: "unexpected reply to DBSIZE")
            }
            return count
        }
        return counts.results.reduce(0, +)
    }

    /// A step at each server.
    ///
    /// - Returns: how many keys, about, it has passed by, those of them that begin with the database's prefix, and whether all are through.
    func step() throws(CacheError) -> (passed: Int, keys: [[UInt8]], isEnd: Bool) {
        var steps = 0
        var found: [[UInt8]] = []
        let isEnd = try client.each { connection throws(CacheError) in
            // A server that has come up in the middle of a run begins at its beginning.
            guard let cursor = cursors[connection.place, default: "0"] else { return true }
            let next = try step(from: cursor, over: connection, &found)
            cursors.updateValue(next, forKey: connection.place)
            steps += 1
            return next == nil
        }
        return (steps * Self.keysPerStep, found, isEnd.results.allSatisfy { $0 })
    }

    private func step(
        from cursor: String, over connection: RedisConnection, _ found: inout [[UInt8]]
    ) throws(CacheError) -> String? {
        let reply = try connection.command(
            "SCAN", cursor, "MATCH", Self.pattern(place.keyPrefix), "COUNT", "\(Self.keysPerStep)")
        guard case .array(let parts) = reply, parts.count == 2, case .text(let next) = parts[0],
            case .array(let keys) = parts[1]
        else { throw CacheError(message: "unexpected reply to SCAN") }
        found += keys.compactMap(\.bytes)
        return next == "0" ? nil : next
    }

    func owners(of place: ReconcileSource.Place) -> KeyOwners { KeyOwners(keys: keys, types: place.types) }

    /// The key of the entity's counts.
    func name(of entity: EntityAddress) -> String {
        String(decoding: key(of: entity, .counts), as: UTF8.self)
    }

    /// Bytes that keys take; 0 for one that is gone, nil if Redis does not tell. A hash is estimated by five of its fields.
    func memory(of keys: [[UInt8]]) throws(CacheError) -> [Int64?] {
        guard !keys.isEmpty else { return [] }
        var commands = CommandBuffer()
        for key in keys {
            commands.begin("MEMORY", arguments: 2)
            commands.append("USAGE" as StaticString)
            commands.append(key: key)
        }
        return try client.pipeline(commands).map { reply in
            switch reply {
            case .integer(let bytes): bytes
            case .null: 0
            default: nil
            }
        }
    }

    /// Which of the entities have counts.
    func withCounts(_ entities: [EntityAddress]) throws(CacheError) -> Set<EntityAddress> {
        guard !entities.isEmpty else { return [] }
        var commands = CommandBuffer()
        for entity in entities {
            commands.begin("EXISTS", arguments: 1)
            commands.append(key: key(of: entity, .counts))
        }
        return Set(zip(entities, try client.pipeline(commands)).filter { $0.1 == .integer(1) }.map(\.0))
    }

    /// What there is of the entities, each at a moment of its own.
    ///
    /// - Parameter isWhole: with the reactors of lists that are not too long to be read.
    func look(
        at entities: [EntityAddress], isWhole: Bool = false
    ) throws(CacheError) -> [EntityAddress: EntityLook] {
        guard !entities.isEmpty else { return [:] }
        let digest = try client.digest(of: .entityLook)
        var looks: [EntityAddress: EntityLook] = [:]
        for some in entities.pieces(of: Self.looksPerExchange) {
            var commands = CommandBuffer()
            for entity in some {
                commands.beginScript(digest, keys: EntityLook.Part.allCases.count, arguments: 5)
                for part in EntityLook.Part.allCases { commands.append(key: key(of: entity, part)) }
                for number in [
                    EntityLook.mostFields, ReactionList.headerWidth, ReactionList.positionWidth, EntityLook.mostBytes,
                    isWhole ? 1 : 0,
                ] { commands.append(Int64(number)) }
            }
            for (entity, answer) in zip(some, try client.answers(to: commands, scripts: [.entityLook])) {
                let stamp = Stamp(
                    redisHistory: answer.history, systemIdentifier: place.systemIdentifier, timeline: place.timeline,
                    epoch: types[entity.typeID]?.epoch ?? 0)
                guard let look = EntityLook(answer.reply, stamp: stamp) else { throw Self.unexpected(answer.reply) }
                looks[entity] = look
            }
        }
        return looks
    }

    /// Drops parts of an entity, or all of them and asks for it to be built anew, unless it is another one than was looked at.
    ///
    /// - Returns: whether it was dropped.
    func repair(_ entity: EntityAddress, _ look: EntityLook, _ repair: CacheFault.Repair) throws(CacheError) -> Bool {
        let parts = repair == .rebuild ? look.present : EntityCondition.superfluous(look)
        guard repair != .none, let type = types[entity.typeID], !parts.isEmpty else { return false }
        var commands = CommandBuffer()
        commands.beginScript(try client.digest(of: .entityDrop), keys: parts.count + 1, arguments: 1)
        for part in [.counts] + parts { commands.append(key: key(of: entity, part)) }
        commands.append(look.life)
        let reply = try client.pipeline(commands, scripts: [.entityDrop])[0]
        guard case .integer(let dropped) = reply else { throw Self.unexpected(reply) }
        guard dropped >= 0, repair == .rebuild else { return dropped >= 0 }
        // If this process dies before, the next one who misses the entity asks for it.
        commands.removeAll()
        commands.begin("ZINCRBY", arguments: 3)
        commands.append(key: keys.wanted(of: type.name))
        commands.append(1)
        commands.append(entity.id)
        _ = try client.pipeline(commands)
        return true
    }

    /// Gives the keys of entities the full time to live again. Returns how many there were.
    func keep(_ entities: [(EntityAddress, EntityLook)], seconds: Int64) throws(CacheError) -> Int {
        guard !entities.isEmpty else { return 0 }
        let digest = try client.digest(of: .entityKeep)
        var commands = CommandBuffer()
        for (entity, look) in entities {
            commands.beginScript(digest, keys: EntityLook.Part.allCases.count, arguments: 2)
            for part in EntityLook.Part.allCases { commands.append(key: key(of: entity, part)) }
            commands.append(look.life)
            commands.append(seconds)
        }
        return try client.pipeline(commands, scripts: [.entityKeep]).count { $0 == .integer(1) }
    }

    /// What Redis calls each of the keys; `none` if it has gone.
    func types(of keys: [[UInt8]]) throws(CacheError) -> [String] {
        guard !keys.isEmpty else { return [] }
        var commands = CommandBuffer()
        for key in keys {
            commands.begin("TYPE", arguments: 1)
            commands.append(key: key)
        }
        return try client.pipeline(commands).map { reply throws(CacheError) in
            guard case .text(let type) = reply else { throw CacheError(message: "unexpected reply to TYPE: \(reply)") }
            return type
        }
    }

    /// Drops a key that is no entity's.
    func unlink(_ key: [UInt8]) throws(CacheError) -> Bool {
        var commands = CommandBuffer()
        commands.begin("UNLINK", arguments: 1)
        commands.append(key: key)
        return try client.pipeline(commands) == [.integer(1)]
    }

    // MARK: Pieces

    private func key(of entity: EntityAddress, _ part: EntityLook.Part) -> [UInt8] {
        guard let type = types[entity.typeID] else { return [] }
        return keys.key(
            type.entityKey, id: entity.id, shardCount: type.shardCount, suffix: KeySpace.entitySuffixes[part.rawValue])
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
}

extension EntityLook {
    /// The reply of `entity_look.lua`; nil if it has another shape.
    init?(_ reply: RedisReply, stamp: Stamp) {
        self.init()
        guard case .array(let parts) = reply, parts.count == 8, case .integer(let idle) = parts[0],
            case .integer(let timeToLive) = parts[1], case .array(let types) = parts[2],
            types.count == Part.allCases.count, case .array(let fields) = parts[3], fields.count.isMultiple(of: 2),
            let total = parts[4].bytes, let flag = parts[5].bytes
        else { return nil }
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
        self.total = String(decoding: total, as: UTF8.self)
        self.flag = String(decoding: flag, as: UTF8.self)
        guard let reactions = list(parts[6]), let sample = list(parts[7]) else { return nil }
        self.reactions = reactions
        self.sample = sample
    }

    private func list(_ reply: RedisReply) -> List? {
        guard case .array(let parts) = reply, parts.count == 3, case .integer(let length) = parts[0],
            let bytes = parts[1].bytes, case .array(let tally) = parts[2]
        else { return nil }
        let numbers = tally.compactMap { if case .integer(let number) = $0 { number } else { nil } }
        return list(length: length, bytes: bytes, tally: numbers)
    }
}
