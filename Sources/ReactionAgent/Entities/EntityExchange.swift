internal import Glibc
internal import Pipeline
internal import ReactionModel
internal import RedisStore

struct EntityID: Hashable, Sendable {
    var typeID: Int16
    var entityID: Int64
}

/// Reads entities' keys and writes them, a shard at a time under its watermark (`Watermarks`). Not Sendable: it belongs to one actor.
final class EntityExchange {
    /// An entity's marker as it is in Redis.
    struct Found {
        /// Empty for none.
        var text: [UInt8] = []
        /// Nil: the entity is absent.
        var marker: EntityMarker?
        /// The key is somebody else's.
        var isForeign = false
        /// Nothing is known of it: its server does not answer, or its shard is not claimed.
        var isUnreachable = false
        var stamp: Stamp
        /// Of the server that holds the entity.
        var history: [UInt8]

        /// There are counts, of another stamp. They are absent here, and would be there again if their slot moved back to the server
        /// that they were made on: whatever they miss meanwhile drops them.
        var isStray: Bool { marker == nil && !text.isEmpty }
    }

    /// What an entity becomes; no content: it is dropped.
    struct Write {
        var id: EntityID
        var found: Found
        var content: EntityContent?
        var counted: CountedChunk
        /// The life of the entity that goes on; nil: a new one.
        var life: (nonce: [UInt8], builtAt: Int64)?
    }

    enum Outcome: Equatable {
        case written
        /// Somebody has written or dropped the entity since its marker was read.
        case changed
        case foreign
    }

    private struct Call {
        var shard: ShardID
        var writes: [Int]
    }

    /// Changes, and bytes, of one call of the script: bounds how long Redis serves nobody else.
    static let changesPerCall = 1_000
    static let bytesPerCall = 1 << 20
    /// Of a type; those that were missed least are forgotten.
    static let mostWanted: Int64 = 100_000

    private let client: RedisClient
    private let systemIdentifier: UInt64
    private let timeline: UInt32
    private let ttl: Int64
    private(set) var catalog: [Int16: EntityType] = [:]
    private var stamps: Stamps
    private var watermarks = Watermarks()

    init(redis: RedisSettings, systemIdentifier: UInt64, timeline: UInt32, keyPrefix: String, ttl: Duration) {
        client = RedisClient(settings: redis, keyPrefix: keyPrefix)
        self.systemIdentifier = systemIdentifier
        self.timeline = timeline
        self.ttl = max(1, ttl.components.seconds)
        stamps = Stamps(systemIdentifier: systemIdentifier, timeline: timeline, catalog: [:])
    }

    /// Takes the catalog, except what is older than what is known: epochs only rise, and a backfill is undone with a new epoch. Returns
    /// the types that have a new epoch.
    func use(_ newer: [Int16: EntityType]) -> Set<Int16> {
        var raised: Set<Int16> = []
        catalog = newer.reduce(into: [:]) { merged, entry in
            var (typeID, type) = entry
            if let known = catalog[typeID] {
                if known.epoch > type.epoch { type = known }
                if known.epoch == type.epoch { type.isBackfilled = type.isBackfilled || known.isBackfilled }
                if known.epoch < type.epoch { raised.insert(typeID) }
            }
            merged[typeID] = type
        }
        stamps = Stamps(systemIdentifier: systemIdentifier, timeline: timeline, catalog: catalog)
        watermarks.forget(raised)
        return raised
    }

    // MARK: Reading

    /// What there is of the entities; and the failure, if some of them could not be reached: the others are known.
    func find(_ ids: [EntityID]) throws(CacheError) -> (found: [Found], failure: CacheError?) {
        let keys = try client.keySpace()
        var commands = CommandBuffer()
        for id in ids {
            commands.begin("HGET", arguments: 2)
            commands.append(key: key(of: id, KeySpace.countsSuffix, keys))
            commands.append(EntityMarker.field)
        }
        var failure = try settleWatermarks(of: ids, keys)
        let (answers, notAsked) = try client.ask(commands)
        failure = notAsked ?? failure
        var found: [Found] = []
        found.reserveCapacity(ids.count)
        for (id, answer) in zip(ids, answers) {
            var one = Found(stamp: stamps[id.typeID, answer.history], history: answer.history)
            switch answer.reply {
            case _ where answer.history.isEmpty || !watermarks.isSettled(shard(of: id)): one.isUnreachable = true
            case .null: break
            case .error(let text) where text.hasPrefix("WRONGTYPE"): one.isForeign = true
            default:
                guard let text = answer.reply.bytes else {
                    throw CacheError(message: "unexpected reply to HGET: \(answer.reply)")
                }
                one.text = text
                one.marker = EntityMarker(ByteCursor(text), stamp: one.stamp)
            }
            found.append(one)
        }
        if failure == nil, found.contains(where: \.isUnreachable) {
            failure = CacheError(message: "the entities of a shard could not be looked at")
        }
        return (found, failure)
    }

    /// Claims the shards that are new to the term; returns those that could be reached. They are looked at when the claim is `proved`: a
    /// former term may claim late.
    func claim(_ ids: [EntityID]) throws(CacheError) -> [ShardID] {
        let unclaimed = watermarks.open(Set(ids.map(shard))).unclaimed
        guard !unclaimed.isEmpty else { return [] }
        let keys = try client.keySpace()
        var commands = CommandBuffer()
        for shard in unclaimed {
            commands.begin("SET", arguments: 2)
            commands.append(key: watermark(of: shard, keys))
            commands.append(watermarks.claim)
        }
        var claimed: [ShardID] = []
        for (shard, answer) in zip(unclaimed, try client.ask(commands).answers) where !answer.history.isEmpty {
            guard case .text("OK") = answer.reply else {
                throw CacheError(message: "unexpected reply to SET: \(answer.reply)")
            }
            claimed.append(shard)
        }
        return claimed
    }

    /// Behind the claim the term was still the newest: whoever claims these shards later is a later one.
    func proved(_ shards: [ShardID]) {
        for shard in shards { watermarks.claimed(shard) }
    }

    /// What the entities are; nil for one that is not whole, or another one by now.
    func load(_ entities: [(id: EntityID, found: Found)]) throws(CacheError) -> [EntityContent?] {
        let keys = try client.keySpace()
        let fields = catalog.mapValues(EntityContent.fields)
        let arguments = fields.mapValues(CommandBuffer.countsArguments)
        var commands = CommandBuffer()
        for (id, found) in entities {
            commands.appendReadCounts(
                of: key(of: id, KeySpace.countsSuffix, keys), fields: fields[id.typeID]?.count ?? 0,
                arguments: arguments[id.typeID] ?? CommandBuffer.countsArguments([]))
            let isViral = found.marker?.tier == .viral
            commands.begin("GET", arguments: 1)
            commands.append(key: key(of: id, isViral ? KeySpace.sampleSuffix : KeySpace.reactionsSuffix, keys))
        }
        let replies = try client.pipeline(commands)
        return entities.enumerated().map { index, entity in
            guard let type = catalog[entity.id.typeID], let marker = entity.found.marker else { return nil }
            return EntityContent(replies[index * 2], replies[index * 2 + 1], entity.found.text, marker, type)
        }
    }

    /// What was wanted, as far as it could be asked.
    struct Wanted {
        var ids: [EntityID] = []
        /// Types whose set of wanted entities was somebody else's key, and is removed.
        var foreign: [EntityType] = []
        var failure: CacheError?
    }

    /// Takes the entities that are wanted most, of each type as many as are given, and forgets those that are wanted least; and notices
    /// whether older contents were loaded.
    func takeWanted(_ limit: Int) throws(CacheError) -> Wanted {
        let keys = try client.keySpace()
        let types = catalog.values.filter { $0.isCounted }.sorted { $0.typeID < $1.typeID }
        let checked = watermarks.telling
        var commands = CommandBuffer()
        for shard in checked { appendRead(shard, keys, to: &commands) }
        for type in types {
            commands.begin("ZPOPMAX", arguments: 2)
            commands.append(key: keys.wanted(of: type.name))
            commands.append(Int64(max(0, limit)))
        }
        for type in types {
            commands.begin("ZREMRANGEBYRANK", arguments: 3)
            commands.append(key: keys.wanted(of: type.name))
            commands.append(0)
            commands.append(-Self.mostWanted - 1)
        }
        guard commands.commandCount > 0 else { return Wanted() }
        let (answers, failure) = try client.ask(commands)
        var wanted = Wanted(failure: failure)
        for (type, answer) in zip(types, answers.dropFirst(checked.count)) {
            switch answer.reply {
            case .array(let pairs):
                for index in stride(from: 0, to: pairs.count, by: 2) {
                    guard case .text(let text) = pairs[index], let id = Int64(text) else { continue }
                    wanted.ids.append(EntityID(typeID: type.typeID, entityID: id))
                }
            case .error(let text) where text.hasPrefix("WRONGTYPE"): wanted.foreign.append(type)
            case _ where answer.history.isEmpty: continue
            case let reply: wanted.failure = CacheError(message: "unexpected reply to ZPOPMAX: \(reply)")
            }
        }
        try remove(wanted.foreign.map { keys.wanted(of: $0.name) })
        for (shard, answer) in zip(checked, answers) where !answer.history.isEmpty { try settle(shard, answer.reply) }
        return wanted
    }

    private func remove(_ keys: [[UInt8]]) throws(CacheError) {
        guard !keys.isEmpty else { return }
        var commands = CommandBuffer()
        for key in keys {
            commands.begin("UNLINK", arguments: 1)
            commands.append(key: key)
        }
        _ = try client.ask(commands)
    }

    // MARK: Writing

    /// Writes what is as it was found; in the order of the writes.
    func write(_ writes: [Write]) throws(CacheError) -> [Outcome] {
        let keys = try client.keySpace()
        let contents = writes.map { write in
            EntityWrite(
                keys: catalog[write.id.typeID].map { keys.entityKeys(of: $0, id: write.id.entityID) } ?? [],
                marker: write.found.text, content: content(of: write))
        }
        if let failure = try settleWatermarks(of: writes.map(\.id), keys) { throw failure }
        let digest = try client.digest(of: .entityWrite)
        var commands = CommandBuffer()
        var sent: [(call: Call, successor: [UInt8])] = []
        var histories: [[UInt8]] = []
        // What was found under an older epoch counts no more: it is left as it is.
        for call in calls(for: writes, contents) where watermarks.isClaimed(call.shard) {
            let first = writes[call.writes[0]]
            let (predecessor, successor) = watermarks.begin(call.shard, first.counted.batch)
            commands.appendEntityWrite(
                call.writes.map { contents[$0] }, digest: digest,
                watermark: watermark(of: call.shard, keys), predecessor: predecessor, successor: successor, ttl: ttl)
            histories.append(first.found.history)
            sent.append((call, successor))
        }
        var outcomes = [Outcome](repeating: .changed, count: writes.count)
        let replies = try client.pipeline(commands, histories: histories, scripts: [.entityWrite])
        for ((call, successor), reply) in zip(sent, replies) {
            let type = catalog[call.shard.typeID]
            switch reply {
            case .array(let states) where states.count == call.writes.count:
                watermarks.succeeded(call.shard, successor)
                for (write, state) in zip(call.writes, states) {
                    outcomes[write] = state == .integer(1) ? .written : state == .integer(-1) ? .foreign : .changed
                }
            case .integer(0): throw watermarks.displaced(call.shard, of: type)
            case nil: throw CacheError(message: "the keys of a shard are on their way between servers")
            case let reply?: throw CacheError(message: "unexpected reply to a write of entities: \(reply)")
            }
        }
        return outcomes
    }

    /// By shard, within the bounds of a call.
    private func calls(for writes: [Write], _ contents: [EntityWrite]) -> [Call] {
        var calls: [Call] = []
        for (shard, indices) in Dictionary(grouping: writes.indices, by: { shard(of: writes[$0].id) }) {
            var open: [Int] = []
            var bytes = 0
            func close() {
                guard !open.isEmpty else { return }
                calls.append(Call(shard: shard, writes: open))
                open = []
                bytes = 0
            }
            for index in indices {
                if open.count >= Self.changesPerCall || bytes + contents[index].size > Self.bytesPerCall { close() }
                open.append(index)
                bytes += contents[index].size
            }
            close()
        }
        return calls
    }

    private func content(of write: Write) -> EntityWrite.Content? {
        guard let content = write.content, let type = catalog[write.id.typeID] else { return nil }
        let marker = EntityMarker(
            nonce: write.life?.nonce ?? makeNonce(), tier: content.state.tier, counted: write.counted,
            builtAt: write.life?.builtAt ?? Self.now)
        return content.written(as: marker, write.found.stamp, of: type)
    }

    // MARK: Watermarks

    /// Sees what failed calls have left; returns the failure, if some of it cannot be reached.
    private func settleWatermarks(of ids: [EntityID], _ keys: KeySpace) throws(CacheError) -> CacheError? {
        let unsure = watermarks.open(Set(ids.map(shard))).unsure
        guard !unsure.isEmpty else { return nil }
        var commands = CommandBuffer()
        for shard in unsure { appendRead(shard, keys, to: &commands) }
        let (answers, failure) = try client.ask(commands)
        for (shard, answer) in zip(unsure, answers) where !answer.history.isEmpty { try settle(shard, answer.reply) }
        return failure
    }

    private func appendRead(_ shard: ShardID, _ keys: KeySpace, to commands: inout CommandBuffer) {
        commands.begin("GET", arguments: 1)
        commands.append(key: watermark(of: shard, keys))
    }

    private func watermark(of shard: ShardID, _ keys: KeySpace) -> [UInt8] {
        keys.applied(of: catalog[shard.typeID]?.name ?? "", shard: shard.shard)
    }

    private func settle(_ shard: ShardID, _ reply: RedisReply) throws(CacheError) {
        try watermarks.settle(shard, reply.bytes ?? [], of: catalog[shard.typeID])
    }

    // MARK: Keys

    private func key(of id: EntityID, _ suffix: StaticString, _ keys: KeySpace) -> [UInt8] {
        guard let type = catalog[id.typeID] else { return [] }
        return keys.key(type.entityKey, id: id.entityID, shardCount: type.shardCount, suffix: suffix)
    }

    private func shard(of id: EntityID) -> ShardID {
        ShardID(
            typeID: id.typeID, shard: KeyTemplate.shard(of: id.entityID, count: catalog[id.typeID]?.shardCount ?? 1))
    }

    static var now: Int64 { Int64(time(nil)) }
}
