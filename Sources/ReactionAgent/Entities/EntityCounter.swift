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
    private var rebuilds = Rebuilds()
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
        rebuilds.forget(exchange.use(catalog))
        return exchange.catalog
    }

    // MARK: Counting

    /// Counts a chunk in the entities that are there and have not got it. May be repeated.
    ///
    /// - Parameter ask: tells flags as of before the chunk.
    func count(_ changes: [EntityChange], at chunk: CountedChunk, ask: @escaping AskFlags) async throws {
        position = max(position, chunk)
        for change in changes { rebuilds.note(change, chunk, ask) }
        for some in inShards(changes).pieces(of: Self.markersPerQuestion) {
            let found = try exchange.find(some.map(\.id))
            var present: [(change: EntityChange, found: EntityExchange.Found)] = []
            var stray: [EntityExchange.Write] = []
            for (change, found) in zip(some, found) {
                if found.isForeign { tellForeign(change.id) }
                if let marker = found.marker, marker.counted < chunk { present.append((change, found)) }
                if found.isStray { stray.append(.init(id: change.id, found: found, counted: chunk)) }
            }
            try carryOut(stray)
            for group in present.pieces(of: Self.entitiesPerGroup) { try await count(group, at: chunk, ask) }
        }
        metrics.update { $0.countedEvents += UInt64(changes.reduce(0) { $0 + $1.events }) }
    }

    private func count(
        _ group: ArraySlice<(change: EntityChange, found: EntityExchange.Found)>, at chunk: CountedChunk,
        _ ask: AskFlags
    ) async throws {
        let contents = try exchange.load(group.map { ($0.change.id, $0.found) })
        var keys: [ReactionKey] = []
        for (entity, content) in zip(group, contents) {
            guard let content else { continue }
            keys += self.keys(content.state.usersToAsk(entity.change), of: entity.change.id)
        }
        let flags = keys.isEmpty ? [:] : try await ask(keys)
        let asked = Dictionary(grouping: flags, by: { EntityID(typeID: $0.key.typeID, entityID: $0.key.entityID) })
            .mapValues { Dictionary($0.map { ($0.key.userID, $0.value.flags) }, uniquingKeysWith: |) }
        var writes: [EntityExchange.Write] = []
        for (entity, content) in zip(group, contents) {
            let (change, found) = entity
            guard let marker = found.marker else { continue }
            var write = EntityExchange.Write(
                id: change.id, found: found, counted: chunk, life: (marker.nonce, marker.builtAt))
            do {
                guard var content else { throw EntityState.Fault() }
                try content.state.apply(change, asked: asked[change.id] ?? [:])
                settleTier(&content, change)
                write.content = content
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
        for id in ids { rebuilds.void(id, by: chunk) }
        for some in ids.pieces(of: Self.markersPerQuestion) {
            var writes: [EntityExchange.Write] = []
            for (id, found) in zip(some, try exchange.find(Array(some))) {
                let isBehind = found.marker.map { $0.counted < chunk } ?? found.isStray
                if isBehind { writes.append(.init(id: id, found: found, counted: chunk)) }
            }
            try carryOut(writes)
        }
    }

    /// Everything of a type is gone: what is being read of it is void, and nothing older than the chunk is read from now on.
    func removeAll(of typeID: Int16, at chunk: CountedChunk) {
        position = max(position, chunk)
        rebuilds.void([typeID])
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

    private func settleTier(_ content: inout EntityContent, _ change: EntityChange) {
        var meter = rates[change.id] ?? RateMeter(time: change.writtenAt)
        meter.add(change.events, at: change.writtenAt)
        rates[change.id] = meter
        if rates.count > Self.mostRates { forgetRates() }
        let now = EntityExchange.now
        let since = String(decoding: content.tierSince.prefix { $0 != UInt8(ascii: ":") }, as: UTF8.self)
        guard let type = exchange.catalog[change.typeID] else { return }
        let decided = tiering.decide(
            content.state.tier, of: type, total: content.state.total, rate: meter.rate,
            for: .seconds(now - (Int64(since) ?? now)))
        guard decided.tier != content.state.tier else { return }
        guard decided.tier == .viral else {
            // Its list has to be read: until then it stays as it is.
            want(change.id, replaces: true)
            return
        }
        content.state.promote()
        content.tierSince = Self.tierSince(now, decided.reason)
        metrics.update { $0.promotedEntities += 1 }
        tell("entity is viral", change.id, content.state, meter.rate, decided.reason)
    }

    private static func tierSince(_ time: Int64, _ reason: Tiering.Reason) -> [UInt8] {
        Array("\(time):\(reason.rawValue)".utf8)
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
        for id in try exchange.takeWanted(max(0, limit - rebuilds.wantedCount)) { want(id) }
        return rebuilds.wanted(limit)
    }

    func want(_ id: EntityID, replaces: Bool = false) {
        rebuilds.want(id, replaces: replaces)
    }

    /// Begins to read entities as of a batch that is confirmed with all before it: what is counted of them from now on is noted. Returns
    /// those that are to be read; none if more is counted already.
    func begin(_ ids: [EntityID], asOf base: BatchNumber) throws(CacheError) -> [EntityID] {
        guard base >= position.batch else { return [] }
        let open = ids.filter { !rebuilds.isOpen($0) && exchange.catalog[$0.typeID]?.isCounted ?? false }
        var missing: [EntityID] = []
        for (id, found) in zip(open, try exchange.find(open)) {
            if found.isForeign {
                tellForeign(id)
                continue
            }
            if found.marker != nil, !rebuilds.replaces(id), try exchange.load([(id, found)]).first ?? nil != nil {
                continue
            }
            rebuilds.begin(id, asOf: base)
            missing.append(id)
        }
        rebuilds.wantNoMore(ids)
        return missing
    }

    /// The reading failed: what is still wanted is to be read later.
    func abandon(_ ids: [EntityID]) {
        for id in ids where rebuilds.isOpen(id) {
            _ = rebuilds.end(id)
            want(id, replaces: true)
        }
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
                guard let base = rebuilds.end(reading.id) else { continue }
                writes.append(try write(reading.id, reading.state, asOf: base))
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
            while let noted = rebuilds.noted(applied[index], of: id) {
                applied[index] += 1
                let users = readings[index].state.usersToAsk(noted.change)
                var flags: [ReactionKey: KnownFlags] = [:]
                if !users.isEmpty {
                    hasWaited = true
                    flags = try await noted.ask(keys(users, of: id))
                }
                let asked = Dictionary(flags.map { ($0.key.userID, $0.value.flags) }, uniquingKeysWith: |)
                do {
                    try readings[index].state.apply(noted.change, asked: asked)
                } catch {
                    metrics.update { $0.droppedEntities += 1 }
                    rebuilds.void(id)
                }
            }
        }
        return hasWaited
    }

    /// The readings make no sense: nothing is installed, and nothing read again before it is missed again.
    func giveUp(_ ids: [EntityID]) {
        for id in ids { _ = rebuilds.end(id) }
        metrics.update { $0.droppedEntities += UInt64(ids.count) }
    }

    private func write(
        _ id: EntityID, _ state: EntityState, asOf base: BatchNumber
    ) throws(CacheError) -> EntityExchange.Write {
        var state = state
        let decided = decide(id, total: state.total)
        if decided.tier == .viral { state.promote() }
        guard let found = try exchange.find([id]).first else { throw CacheError(message: "no answer to HGET") }
        if state.tier == .regular, found.marker?.tier == .viral {
            metrics.update { $0.demotedEntities += 1 }
            tell("entity is regular", id, state, rate(of: id), decided.reason)
        }
        let reading = CountedChunk(batch: base, part: .max)
        let content = EntityContent(state: state, tierSince: Self.tierSince(EntityExchange.now, decided.reason))
        return EntityExchange.Write(id: id, found: found, content: content, counted: max(reading, position))
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
