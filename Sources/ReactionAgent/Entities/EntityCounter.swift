internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ReactionModel
internal import RedisStore

/// Keeps the entities that Redis holds level with what is confirmed, in one term: counts chunks in order, and installs what was read of
/// ClickHouse. It alone writes entities.
///
/// An actor on a queue of its own. It may be entered while a chunk waits for ClickHouse's answer; what then happens to an entity shows in
/// its marker, and what a chunk changes of one that is being read was noted before the chunk waited. So in any order an entity has every
/// chunk once: those up to its marker's are in it, later ones are noted for whoever installs it.
actor EntityCounter {
    struct Settings: Sendable {
        var tiering = Tiering()
        /// Since the last write.
        var ttl: Duration = .seconds(86_400)
    }

    /// What was read of ClickHouse.
    struct Reading: Sendable {
        var id: EntityID
        var state: EntityState
    }

    typealias Ask = @Sendable ([ReactionKey]) async throws -> [ReactionKey: KnownFlags]

    /// An entity that is being read.
    private struct Rebuild {
        /// The reading is as of it.
        var base: BatchNumber
        var changes: [(chunk: CountedChunk, change: EntityChange, ask: Ask)] = []
        /// It has gone meanwhile.
        var isVoid = false
    }

    /// Entities whose lists are in memory at a time.
    private static let entitiesPerGroup = 128
    private static let markersPerQuestion = 2_000
    /// Entities whose rate is known.
    private static let mostRates = 20_000

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.redis.entities")
    private let exchange: EntityExchange
    private let tiering: Tiering
    private let metrics: Metrics
    private let logger: Logger
    /// The last chunk that was begun.
    private var position = CountedChunk(batch: BatchNumber(rawValue: 0), part: 0)
    private var rebuilds: [EntityID: Rebuild] = [:]
    /// To be read anew; whether also if it is there.
    private var wanted: [EntityID: Bool] = [:]
    private var rates: [EntityID: RateMeter] = [:]

    init(
        redis: RedisSettings, systemIdentifier: UInt64, timeline: UInt32, keyPrefix: String, settings: Settings,
        metrics: Metrics, logger: Logger
    ) {
        exchange = EntityExchange(
            redis: redis, systemIdentifier: systemIdentifier, timeline: timeline, keyPrefix: keyPrefix,
            ttl: settings.ttl)
        tiering = settings.tiering
        self.metrics = metrics
        self.logger = logger
    }

    /// Returns the catalog to go by. Epochs have to be read after the confirmation of what is counted, or read, under them.
    func use(_ catalog: [Int16: EntityType]) -> [Int16: EntityType] {
        let raised = exchange.use(catalog)
        if !raised.isEmpty {
            for id in rebuilds.keys where raised.contains(id.typeID) { rebuilds[id]?.isVoid = true }
            wanted = wanted.filter { !raised.contains($0.key.typeID) }
        }
        return exchange.catalog
    }

    // MARK: Counting

    /// Counts a chunk in the entities that are there and have not got it. May be repeated.
    ///
    /// - Parameter ask: tells flags as of before the chunk.
    func count(_ changes: [EntityChange], at chunk: CountedChunk, ask: @escaping Ask) async throws {
        position = max(position, chunk)
        for change in changes { note(change, chunk, ask) }
        for some in inShards(changes).pieces(of: Self.markersPerQuestion) {
            let found = try exchange.find(some.map(\.id))
            var present: [(change: EntityChange, found: EntityExchange.Found)] = []
            for (change, found) in zip(some, found) {
                if found.isForeign { tellForeign(change.id) }
                if let marker = found.marker, marker.counted < chunk { present.append((change, found)) }
            }
            for group in present.pieces(of: Self.entitiesPerGroup) { try await count(group, at: chunk, ask) }
        }
        metrics.update { $0.countedEvents += UInt64(changes.reduce(0) { $0 + $1.events }) }
    }

    private func count(
        _ group: ArraySlice<(change: EntityChange, found: EntityExchange.Found)>, at chunk: CountedChunk, _ ask: Ask
    ) async throws {
        let loaded = try exchange.load(group.map { ($0.change.id, $0.found) })
        var keys: [ReactionKey] = []
        for (entity, loaded) in zip(group, loaded) {
            guard let loaded else { continue }
            keys += self.keys(loaded.state.usersToAsk(entity.change), of: entity.change.id)
        }
        let flags = keys.isEmpty ? [:] : try await ask(keys)
        let asked = Dictionary(grouping: flags, by: { EntityID(typeID: $0.key.typeID, entityID: $0.key.entityID) })
            .mapValues { Dictionary($0.map { ($0.key.userID, $0.value.flags) }, uniquingKeysWith: |) }
        var writes: [EntityExchange.Write] = []
        for (entity, loaded) in zip(group, loaded) {
            let (change, found) = entity
            guard let marker = found.marker else { continue }
            var write = EntityExchange.Write(
                id: change.id, found: found, counted: chunk, life: (marker.nonce, marker.builtAt))
            do {
                guard var loaded else { throw EntityState.Fault() }
                try loaded.state.apply(change, asked: asked[change.id] ?? [:])
                write.tierSince = loaded.tierSince
                settleTier(&loaded.state, &write.tierSince, change)
                write.state = loaded.state
            } catch {
                // Not whole, as eviction leaves it, or not what its events make of it: it is dropped, and read anew.
                metrics.update { $0.droppedEntities += 1 }
                want(change.id)
            }
            writes.append(write)
        }
        try carryOut(writes)
    }

    /// Drops entities that are gone, and what is on its way of them.
    func drop(_ ids: [EntityID], at chunk: CountedChunk) throws(CacheError) {
        position = max(position, chunk)
        for id in ids where (rebuilds[id]?.base).map({ $0 < chunk.batch }) ?? false { rebuilds[id]?.isVoid = true }
        for some in ids.pieces(of: Self.markersPerQuestion) {
            var writes: [EntityExchange.Write] = []
            for (id, found) in zip(some, try exchange.find(Array(some))) {
                guard let marker = found.marker, marker.counted < chunk else { continue }
                writes.append(EntityExchange.Write(id: id, found: found, counted: chunk))
            }
            try carryOut(writes)
        }
    }

    private func note(_ change: EntityChange, _ chunk: CountedChunk, _ ask: @escaping Ask) {
        guard let rebuild = rebuilds[change.id], rebuild.base < chunk.batch,
            rebuild.changes.last.map({ $0.chunk < chunk }) ?? true
        else { return }
        rebuilds[change.id]?.changes.append((chunk, change, ask))
    }

    private func inShards(_ changes: [EntityChange]) -> [EntityChange] {
        let counts = exchange.catalog.mapValues(\.shardCount)
        func shard(_ change: EntityChange) -> Int32 {
            KeyTemplate.shard(of: change.entityID, count: counts[change.typeID] ?? 1)
        }
        return changes.map { (shard($0), $0) }.sorted { ($0.1.typeID, $0.0) < ($1.1.typeID, $1.0) }.map(\.1)
    }

    private func keys(_ users: [Int64], of id: EntityID) -> [ReactionKey] {
        let era = exchange.catalog[id.typeID]?.eras.last?.version ?? .zero
        return users.map { ReactionKey(typeID: id.typeID, userID: $0, entityID: id.entityID, era: era) }
    }

    // MARK: Tiers

    private func settleTier(_ state: inout EntityState, _ since: inout [UInt8], _ change: EntityChange) {
        var meter = rates[change.id] ?? RateMeter(time: change.writtenAt)
        meter.add(change.events, at: change.writtenAt)
        rates[change.id] = meter
        if rates.count > Self.mostRates { forgetRates() }
        let now = EntityExchange.now
        let text = String(decoding: since, as: UTF8.self)
        let began = text.split(separator: ":").first.flatMap { Int64($0) } ?? now
        guard let type = exchange.catalog[change.typeID] else { return }
        let decided = tiering.decide(
            state.tier, of: type, total: state.total, rate: meter.rate, for: .seconds(now - began))
        guard decided.tier != state.tier else { return }
        guard decided.tier == .viral else {
            // Its list has to be read: until then it stays as it is.
            want(change.id, replaces: true)
            return
        }
        state.promote()
        since = Array("\(now):\(decided.reason.rawValue)".utf8)
        metrics.update { $0.promotedEntities += 1 }
        tell("entity is viral", change.id, state, meter.rate, decided.reason)
    }

    private func forgetRates() {
        let oldest = rates.values.map(\.time).sorted()[rates.count / 2]
        rates = rates.filter { $0.value.time > oldest }
    }

    private func tell(
        _ what: Logger.Message, _ id: EntityID, _ state: EntityState, _ rate: Double, _ reason: Tiering.Reason
    ) {
        logger.notice(
            what,
            metadata: [
                "type": "\(exchange.catalog[id.typeID]?.name ?? "")", "entity": "\(id.entityID)",
                "total": "\(state.total)", "rate": "\(Int(rate))", "reason": "\(reason.rawValue)",
            ])
    }

    // MARK: Readings

    /// Takes what is wanted most, at most about as many as the limit.
    func takeWanted(_ limit: Int) throws(CacheError) -> [EntityID] {
        let more = wanted.count < limit ? limit - wanted.count : 0
        for id in try exchange.takeWanted(more) { want(id) }
        return Array(wanted.keys.prefix(limit))
    }

    func want(_ id: EntityID, replaces: Bool = false) {
        wanted[id] = wanted[id] ?? false || replaces
    }

    /// Begins to read entities as of a batch that is confirmed with all before it: what is counted of them from now on is noted. Returns
    /// those that are to be read; none if more is counted already.
    func begin(_ ids: [EntityID], asOf base: BatchNumber) throws(CacheError) -> [EntityID] {
        guard base >= position.batch else { return [] }
        let open = ids.filter { rebuilds[$0] == nil && exchange.catalog[$0.typeID]?.isCounted ?? false }
        var missing: [EntityID] = []
        for (id, found) in zip(open, try exchange.find(open)) {
            if found.isForeign { tellForeign(id) }
            let replaces = wanted[id] ?? false
            if found.isForeign { continue }
            if found.marker != nil, !replaces, try exchange.load([(id, found)]).first ?? nil != nil { continue }
            rebuilds[id] = Rebuild(base: base)
            missing.append(id)
        }
        for id in ids { wanted[id] = nil }
        return missing
    }

    /// The reading failed: what is still wanted is to be read later.
    func abandon(_ ids: [EntityID]) {
        for id in ids where rebuilds.removeValue(forKey: id) != nil { want(id, replaces: true) }
    }

    /// The tier in which an entity of so many reactions is to be read.
    func tier(of id: EntityID, total: Int64) -> EntityTier {
        decide(id, total: total).tier
    }

    /// Of an entity that is read anew.
    private func decide(_ id: EntityID, total: Int64) -> (tier: EntityTier, reason: Tiering.Reason) {
        guard let type = exchange.catalog[id.typeID] else { return (.regular, .few) }
        return tiering.decide(nil, of: type, total: total, rate: rate(of: id), for: .zero)
    }

    /// Installs what was read, with what was noted since.
    func install(_ readings: [Reading]) async throws {
        for group in readings.pieces(of: Self.entitiesPerGroup) {
            var readings = Array(group)
            var applied = readings.map { _ in 0 }
            // Until nothing was waited for: what is noted meanwhile is applied as well.
            while try await bringUpToDate(&readings, &applied) {}
            var writes: [EntityExchange.Write] = []
            for reading in readings {
                guard let rebuild = rebuilds.removeValue(forKey: reading.id), !rebuild.isVoid else { continue }
                writes.append(try write(reading.id, reading.state, rebuild))
            }
            let outcomes = try carryOut(writes)
            metrics.update { $0.installedEntities += UInt64(outcomes.count { $0 == .written }) }
        }
    }

    /// Returns whether anything was waited for.
    private func bringUpToDate(_ readings: inout [Reading], _ applied: inout [Int]) async throws -> Bool {
        var hasWaited = false
        for index in readings.indices {
            let id = readings[index].id
            while let rebuild = rebuilds[id], !rebuild.isVoid, applied[index] < rebuild.changes.count {
                let (_, change, ask) = rebuild.changes[applied[index]]
                applied[index] += 1
                let users = readings[index].state.usersToAsk(change)
                var flags: [ReactionKey: KnownFlags] = [:]
                if !users.isEmpty {
                    hasWaited = true
                    flags = try await ask(keys(users, of: id))
                }
                let asked = Dictionary(flags.map { ($0.key.userID, $0.value.flags) }, uniquingKeysWith: |)
                do {
                    try readings[index].state.apply(change, asked: asked)
                } catch {
                    metrics.update { $0.droppedEntities += 1 }
                    rebuilds[id]?.isVoid = true
                }
            }
        }
        return hasWaited
    }

    /// The readings make no sense: nothing is installed, and nothing read again before it is missed again.
    func giveUp(_ ids: [EntityID]) {
        for id in ids { rebuilds[id] = nil }
        metrics.update { $0.droppedEntities += UInt64(ids.count) }
    }

    private func write(
        _ id: EntityID, _ state: EntityState, _ rebuild: Rebuild
    ) throws(CacheError) -> EntityExchange.Write {
        var state = state
        let decided = decide(id, total: state.total)
        if decided.tier == .viral { state.promote() }
        guard let found = try exchange.find([id]).first else { throw CacheError(message: "no answer to HGET") }
        if state.tier == .regular, found.marker?.tier == .viral {
            metrics.update { $0.demotedEntities += 1 }
            tell("entity is regular", id, state, rate(of: id), decided.reason)
        }
        let base = CountedChunk(batch: rebuild.base, part: .max)
        return EntityExchange.Write(
            id: id, found: found, state: state, counted: max(base, position), life: nil,
            tierSince: Array("\(EntityExchange.now):\(decided.reason.rawValue)".utf8))
    }

    private func rate(of id: EntityID) -> Double {
        rates[id]?.rate(at: EntityExchange.now * 1_000_000) ?? 0
    }

    // MARK: Outcomes

    @discardableResult
    private func carryOut(_ writes: [EntityExchange.Write]) throws(CacheError) -> [EntityExchange.Outcome] {
        guard !writes.isEmpty else { return [] }
        let outcomes = try exchange.write(writes)
        for (write, outcome) in zip(writes, outcomes) where outcome == .foreign { tellForeign(write.id) }
        metrics.update {
            $0.writtenEntities += UInt64(outcomes.count { $0 == .written })
            $0.changedEntities += UInt64(outcomes.count { $0 == .changed })
        }
        return outcomes
    }

    private func tellForeign(_ id: EntityID) {
        metrics.update { $0.foreignEntities += 1 }
        logger.warning(
            "the key of an entity's counts is of another type",
            metadata: ["type": "\(exchange.catalog[id.typeID]?.name ?? "")", "entity": "\(id.entityID)"])
    }
}

extension EntityChange {
    var id: EntityID { EntityID(typeID: typeID, entityID: entityID) }
}
