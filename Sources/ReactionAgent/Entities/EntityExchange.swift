internal import Glibc
internal import Pipeline
internal import ReactionModel
internal import RedisStore

struct EntityID: Hashable, Sendable {
    var typeID: Int16
    var entityID: Int64
}

/// Reads entities' keys and writes them, a shard at a time under its watermark. Not Sendable: it belongs to one actor.
///
/// The watermark of a shard names the last call of the script that wrote there. A call goes through only if the watermark is that of
/// the call before, so none is lost, comes late or is taken back (by a server that is given older contents while it runs) unnoticed.
/// What a failed call has left is one of two. A term claims a shard before it first looks at an entity there: from then on nothing of a
/// former leader's arrives, and what has arrived is seen.
final class EntityExchange {
    /// An entity's marker as it is in Redis.
    struct Found {
        /// Empty for none.
        var text: [UInt8] = []
        /// Nil: the entity is absent.
        var marker: EntityMarker?
        /// The key is somebody else's.
        var isForeign = false
        var stamp: Stamp
        /// Of the server that holds the entity.
        var history: [UInt8]
    }

    /// What an entity becomes; no state: it is dropped.
    struct Write {
        var id: EntityID
        var found: Found
        var state: EntityState?
        var counted: CountedChunk
        /// The life of the entity that goes on; nil: a new one.
        var life: (nonce: [UInt8], builtAt: Int64)?
        var tierSince: [UInt8] = []
    }

    enum Outcome: Equatable {
        case written
        /// Somebody has written or dropped the entity since its marker was read.
        case changed
        case foreign
    }

    private struct ShardID: Hashable {
        var typeID: Int16
        var shard: Int32
    }

    private struct Call {
        var shard: ShardID
        var writes: [Int]
        var successor: [UInt8]
    }

    /// Changes, and bytes, of one call of the script: bounds how long Redis serves nobody else.
    static let changesPerCall = 1_000
    static let bytesPerCall = 1 << 20

    private let client: RedisClient
    private let systemIdentifier: UInt64
    private let timeline: UInt32
    private let ttl: Int64
    private(set) var catalog: [Int16: EntityType] = [:]
    private var stamps: Stamps
    /// What the watermarks may be by the calls of this term; none before it has claimed the shard.
    private var watermarks: [ShardID: [[UInt8]]] = [:]
    /// The shard of each type that was written last: it shows whether anything was taken back.
    private var newest: [Int16: ShardID] = [:]
    private let term = makeNonce()
    private var calls: Int64 = 0

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
        // Nothing of an older epoch counts any more, whatever became of it.
        watermarks = watermarks.filter { !raised.contains($0.key.typeID) }
        for type in raised { newest[type] = nil }
        return raised
    }

    // MARK: Reading

    func find(_ ids: [EntityID]) throws(CacheError) -> [Found] {
        let keys = try client.keySpace()
        try settleWatermarks(of: ids, keys)
        var commands = CommandBuffer()
        for id in ids {
            commands.begin("HGET", arguments: 2)
            commands.append(key: key(of: id, KeySpace.countsSuffix, keys))
            commands.append(EntityMarker.field)
        }
        let answers = try client.answers(to: commands)
        var found: [Found] = []
        found.reserveCapacity(ids.count)
        for (id, answer) in zip(ids, answers) {
            let stamp = stamps[id.typeID, answer.history]
            var one = Found(stamp: stamp, history: answer.history)
            switch answer.reply {
            case .null: break
            case .error(let text) where text.hasPrefix("WRONGTYPE"): one.isForeign = true
            default:
                guard let text = answer.reply.bytes else {
                    throw CacheError(message: "unexpected reply to HGET: \(answer.reply)")
                }
                one.text = text
                one.marker = EntityMarker(ByteCursor(text), stamp: stamp)
            }
            found.append(one)
        }
        return found
    }

    /// An entity that is there; nil if it is not whole, or another one by now.
    struct Loaded {
        var state: EntityState
        /// Field `_tier`.
        var tierSince: [UInt8]
    }

    func load(_ entities: [(id: EntityID, found: Found)]) throws(CacheError) -> [Loaded?] {
        let keys = try client.keySpace()
        var commands = CommandBuffer()
        for (id, found) in entities {
            commands.begin("HGETALL", arguments: 1)
            commands.append(key: key(of: id, KeySpace.countsSuffix, keys))
            let isViral = found.marker?.tier == .viral
            commands.begin("GET", arguments: 1)
            commands.append(key: key(of: id, isViral ? KeySpace.sampleSuffix : KeySpace.reactionsSuffix, keys))
        }
        let replies = try client.pipeline(commands)
        return entities.enumerated().map { index, entity in
            guard let type = catalog[entity.id.typeID], let marker = entity.found.marker else { return nil }
            return Self.loaded(replies[index * 2], replies[index * 2 + 1], entity.found.text, marker, type)
        }
    }

    private static func loaded(
        _ hash: RedisReply, _ list: RedisReply, _ text: [UInt8], _ marker: EntityMarker, _ type: EntityType
    ) -> Loaded? {
        guard case .array(let replies) = hash, let packed = list.bytes,
            let list = ReactionList(packed[...], nonce: marker.nonce), marker.tier == .viral || list.floor == nil
        else { return nil }
        var fields: [[UInt8]: [UInt8]] = [:]
        for index in stride(from: 0, to: replies.count - 1, by: 2) {
            guard let name = replies[index].bytes, let value = replies[index + 1].bytes else { return nil }
            fields[name] = value
        }
        guard fields[Array("\(EntityMarker.field)".utf8)] == text else { return nil }
        func number(_ name: String) -> Int64? {
            fields[Array(name.utf8)].flatMap { Int64(String(decoding: $0, as: UTF8.self)) }
        }
        // A kind that is newer than the entity has no field: readers miss the whole entity then.
        var counts = [Int64].counts(of: type.allFlags)
        for kind in type.kinds {
            guard let count = number(kind.name) else { return nil }
            counts[kind.flag.trailingZeroBitCount] = count
        }
        return Loaded(
            state: EntityState(
                tier: marker.tier, counts: counts, users: number("\(EntityField.users)"), reactors: list.reactors,
                floor: list.floor),
            tierSince: fields[Array("\(EntityField.tier)".utf8)] ?? [])
    }

    /// Takes the entities that are wanted most, of each type as many as are given; and notices whether older contents were loaded.
    func takeWanted(_ limit: Int) throws(CacheError) -> [EntityID] {
        let keys = try client.keySpace()
        let types = catalog.values.filter { $0.isCounted }.sorted { $0.typeID < $1.typeID }
        var commands = CommandBuffer()
        var checked: [ShardID] = []
        for shard in newest.values where watermarks[shard]?.count == 1 {
            checked.append(shard)
            appendRead(shard, keys, to: &commands)
        }
        for type in types where limit > 0 {
            commands.begin("ZPOPMAX", arguments: 2)
            commands.append(key: keys.wanted(of: type.name))
            commands.append(Int64(limit))
        }
        guard commands.commandCount > 0 else { return [] }
        let replies = try client.pipeline(commands)
        var wanted: [EntityID] = []
        for (type, reply) in zip(types, replies.dropFirst(checked.count)) {
            guard case .array(let pairs) = reply else { continue }
            for index in stride(from: 0, to: pairs.count, by: 2) {
                guard case .text(let text) = pairs[index], let id = Int64(text) else { continue }
                wanted.append(EntityID(typeID: type.typeID, entityID: id))
            }
        }
        for (shard, reply) in zip(checked, replies) { try check(shard, reply) }
        return wanted
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
        try settleWatermarks(of: writes.map(\.id), keys)
        let digest = try client.digest(of: .entityWrite)
        var commands = CommandBuffer()
        var calls: [Call] = []
        var histories: [[UInt8]] = []
        for call in self.calls(for: writes, contents) {
            let before = watermarks[call.shard]?.last ?? []
            commands.appendEntityWrite(
                call.writes.map { contents[$0] }, digest: digest,
                watermark: watermark(of: call.shard, keys), predecessor: before, successor: call.successor, ttl: ttl)
            watermarks[call.shard, default: []].append(call.successor)
            newest[call.shard.typeID] = call.shard
            histories.append(writes[call.writes[0]].found.history)
            calls.append(call)
        }
        var outcomes = [Outcome](repeating: .changed, count: writes.count)
        let replies = try client.pipeline(commands, histories: histories, scripts: [.entityWrite])
        for (call, reply) in zip(calls, replies) {
            switch reply {
            case .array(let states) where states.count == call.writes.count:
                watermarks[call.shard] = [call.successor]
                for (write, state) in zip(call.writes, states) {
                    outcomes[write] = state == .integer(1) ? .written : state == .integer(-1) ? .foreign : .changed
                }
            case .integer(0): throw displaced(call.shard)
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
                self.calls += 1
                var successor = term + [UInt8(ascii: ":")]
                successor.appendDecimal(writes[open[0]].counted.batch.rawValue)
                successor.append(UInt8(ascii: ":"))
                successor.appendDecimal(self.calls)
                calls.append(Call(shard: shard, writes: open, successor: successor))
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
        guard let state = write.state, let type = catalog[write.id.typeID] else { return nil }
        let nonce = write.life?.nonce ?? makeNonce()
        let marker = EntityMarker(
            nonce: nonce, tier: state.tier, counted: write.counted, builtAt: write.life?.builtAt ?? Self.now)
        var fields: [[UInt8]] = []
        func add(_ name: String, _ number: Int64) {
            fields += [Array(name.utf8), Array("\(number)".utf8)]
        }
        fields += [Array("\(EntityMarker.field)".utf8), marker.text(stamp: write.found.stamp)]
        var total: Int64 = 0
        for kind in type.kinds where state.counts.indices.contains(kind.flag.trailingZeroBitCount) {
            let count = state.counts[kind.flag.trailingZeroBitCount]
            add(kind.name, count)
            total += count
        }
        add("\(EntityField.total)", total)
        if let users = state.users { add("\(EntityField.users)", users) }
        fields += [Array("\(EntityField.tier)".utf8), write.tierSince]
        return EntityWrite.Content(
            tier: state.tier, total: total,
            list: ReactionList(nonce: nonce, floor: state.floor, reactors: state.reactors).packed(
                allFlags: type.allFlags),
            fields: fields)
    }

    // MARK: Watermarks

    /// Claims shards that are new to the term, and sees what failed calls have left of the others.
    private func settleWatermarks(of ids: [EntityID], _ keys: KeySpace) throws(CacheError) {
        let shards = Set(ids.map(shard))
        let claimed = shards.filter { watermarks[$0] == nil }
        let unsure = shards.filter { (watermarks[$0]?.count ?? 1) > 1 }
        guard !claimed.isEmpty || !unsure.isEmpty else { return }
        var commands = CommandBuffer()
        for shard in claimed {
            commands.begin("SET", arguments: 2)
            commands.append(key: watermark(of: shard, keys))
            commands.append(term)
        }
        for shard in unsure { appendRead(shard, keys, to: &commands) }
        let replies = try client.pipeline(commands)
        for (shard, reply) in zip(claimed, replies) {
            guard case .text("OK") = reply else { throw CacheError(message: "unexpected reply to SET: \(reply)") }
            watermarks[shard] = [term]
        }
        for (shard, reply) in zip(unsure, replies.dropFirst(claimed.count)) {
            try check(shard, reply)
            watermarks[shard] = [reply.bytes ?? []]
        }
    }

    private func appendRead(_ shard: ShardID, _ keys: KeySpace, to commands: inout CommandBuffer) {
        commands.begin("GET", arguments: 1)
        commands.append(key: watermark(of: shard, keys))
    }

    private func watermark(of shard: ShardID, _ keys: KeySpace) -> [UInt8] {
        keys.applied(of: catalog[shard.typeID]?.name ?? "", shard: shard.shard)
    }

    private func check(_ shard: ShardID, _ reply: RedisReply) throws(CacheError) {
        guard watermarks[shard, default: []].contains(reply.bytes ?? []) else { throw displaced(shard) }
    }

    /// Nothing is written to the shard any more until the type has a new epoch.
    private func displaced(_ shard: ShardID) -> CacheError {
        watermarks[shard] = [Self.never]
        newest[shard.typeID] = shard
        return CacheError(
            message: "entities of type \(catalog[shard.typeID]?.name ?? "") are not as they were left",
            displacedTypes: [shard.typeID])
    }

    /// What no watermark is.
    private static let never = Array("?".utf8)

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
