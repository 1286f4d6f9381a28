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
    /// Throws if this term is over.
    private let proveLeading: @Sendable () async throws -> Void
    /// The last chunk that was begun.
    private var position = CountedChunk(batch: BatchNumber(rawValue: 0), part: 0)
    private var rebuilds = Rebuilds()
    private var rates: [EntityID: RateMeter] = [:]

    init(
        redis: RedisSettings, systemIdentifier: UInt64, timeline: UInt32, keyPrefix: String, settings: Settings,
        metrics: Metrics, logger: Logger, proveLeading: @escaping @Sendable () async throws -> Void
    ) {
        exchange = EntityExchange(
            redis: redis, systemIdentifier: systemIdentifier, timeline: timeline, keyPrefix: keyPrefix,
            ttl: settings.ttl)
        tiering = settings.tiering
        self.metrics = metrics
        self.logger = logger
        self.proveLeading = proveLeading
    }

    /// Returns the catalog to go by. Epochs have to be read after the confirmation of what is counted, or read, under them.
    func use(_ catalog: [Int16: EntityType]) -> [Int16: EntityType] {
        rebuilds.forget(exchange.use(catalog))
        return exchange.catalog
    }

    /// Before entities are looked at.
    private func claim(_ ids: [EntityID]) async throws {
        let shards = try exchange.claim(ids)
        guard !shards.isEmpty else { return }
        try await proveLeading()
        exchange.proved(shards)
    }

    // MARK: Counting

    /// Counts a chunk in the entities that are there and have not got it. May be repeated.
    ///
    /// - Parameter ask: tells flags as of before the chunk.
    func count(_ changes: [EntityChange], at chunk: CountedChunk, ask: @escaping AskFlags) async throws {
        position = max(position, chunk)
        for change in changes { rebuilds.note(change, chunk, ask) }
        var failure: CacheError?
        for some in inShards(changes).pieces(of: Self.markersPerQuestion) {
            try await claim(some.map(\.id))
            let (found, unreached) = try exchange.find(some.map(\.id))
            failure = unreached ?? failure
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
        // Those that could be reached have the chunk, and will be left alone when it is counted again.
        if let failure { throw failure }
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
    func drop(_ ids: [EntityID], at chunk: CountedChunk) async throws {
        position = max(position, chunk)
        for id in ids { rebuilds.void(id, by: chunk) }
        var failure: CacheError?
        for some in ids.pieces(of: Self.markersPerQuestion) {
            try await claim(Array(some))
            let (found, unreached) = try exchange.find(Array(some))
            failure = unreached ?? failure
            var writes: [EntityExchange.Write] = []
            for (id, found) in zip(some, found) {
                let isBehind = found.marker.map { $0.counted < chunk } ?? found.isStray
                if isBehind { writes.append(.init(id: id, found: found, counted: chunk)) }
            }
            try carryOut(writes)
        }
        if let failure { throw failure }
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
        let taken = try exchange.takeWanted(limit - rebuilds.wantedCount)
        for id in taken.ids { want(id) }
        for type in taken.foreign {
            metrics.update { $0.foreignEntities += 1 }
            logger.warning("the key of wanted entities was of another type", metadata: ["type": "\(type.name)"])
        }
        let wanted = rebuilds.wanted(limit)
        if let failure = taken.failure, wanted.isEmpty { throw failure }
        return wanted
    }

    func want(_ id: EntityID, replaces: Bool = false) {
        rebuilds.want(id, replaces: replaces)
    }

    /// Begins to read entities as of a batch that is confirmed with all before it: what is counted of them from now on is noted. Returns
    /// those that are to be read; none if more is counted already. One that cannot be reached is to be missed again.
    func begin(_ ids: [EntityID], asOf base: BatchNumber) async throws -> [EntityID] {
        try await claim(ids)
        guard base >= position.batch else { return [] }
        let open = ids.filter { !rebuilds.isOpen($0) && exchange.catalog[$0.typeID]?.isCounted ?? false }
        let found = zip(open, try exchange.find(open).found).filter { !$1.isUnreachable }
        for (id, found) in found where found.isForeign { tellForeign(id) }
        let present = found.filter { $1.marker != nil && !rebuilds.replaces($0) }
        let contents = try exchange.load(present.map { (id: $0, found: $1) })
        let whole = Set(zip(present, contents).compactMap { $1 == nil ? nil : $0.0 })
        // Only now, when nothing can fail any more: what is noted as being read is read.
        let missing = found.filter { !$1.isForeign && !whole.contains($0) }.map(\.0)
        for id in missing { rebuilds.begin(id, asOf: base) }
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
                guard let base = rebuilds.end(reading.id),
                    let write = try write(reading.id, reading.state, asOf: base)
                else { continue }
                writes.append(write)
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

    /// Nil if the entity cannot be reached.
    private func write(
        _ id: EntityID, _ state: EntityState, asOf base: BatchNumber
    ) throws(CacheError) -> EntityExchange.Write? {
        var state = state
        let decided = decide(id, total: state.total)
        if decided.tier == .viral { state.promote() }
        guard let found = try exchange.find([id]).found.first, !found.isUnreachable else { return nil }
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
