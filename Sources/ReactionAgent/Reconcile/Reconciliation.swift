internal import ClickHouseStore
internal import Pipeline
internal import PostgresSource
internal import ReactionModel
internal import RedisStore

/// How a reconciliation works.
public struct ReconcileSettings: Sendable {
    /// On average.
    public var keysPerSecond: Int
    /// Repairs of a run; what is found beyond them is only reported.
    public var mostRepairs: Int64

    public init(keysPerSecond: Int, mostRepairs: Int64) {
        self.keysPerSecond = keysPerSecond
        self.mostRepairs = mostRepairs
    }
}

/// Looks through the keys of Redis once. docs/internals.md, "Reconciliation", says why what it finds is a fault.
///
/// An entity is looked at where SCAN meets its counts. What seems to be wrong is looked at a second time after a pause, and is a fault if
/// it is still wrong then. In memory of a fixed size, whatever Redis holds.
struct Reconciliation {
    struct Options: Sendable {
        /// Names; what belongs to no type is looked at in any case.
        var entityTypes: Set<String>
        var isDry: Bool
        /// Compare the deltas with the events, too.
        var isDeep: Bool
    }

    /// What a key of an entity lives without being asked for; the design's figure, which the agent gives it when it builds it.
    static let timeToLive: Int64 = 24 * 3600
    /// Between two looks at what seems to be wrong.
    static let pause: Duration = .milliseconds(500)
    /// Seconds by which Redis's idle times, and clocks, may be wrong.
    static let slack: Int64 = 60

    typealias Progress = @Sendable (ReconcileTally) async throws -> Void

    let settings: ReconcileSettings
    let options: Options
    private var place: ReconcileSource.Place
    let source: ReconcileSource
    let scan: CacheScan
    let checks: EntityChecks
    /// Unix seconds of the last look of an earlier run.
    let lastLook: Int64?
    let now: @Sendable () -> Int64
    private(set) var tally = ReconcileTally()

    init(
        settings: ReconcileSettings, options: Options, place: ReconcileSource.Place, source: ReconcileSource,
        redis: RedisSettings, clickHouse: ClickHouseSettings, lastLook: Int64?, now: @escaping @Sendable () -> Int64
    ) {
        self.settings = settings
        self.options = options
        self.place = place
        self.source = source
        self.lastLook = lastLook
        self.now = now
        scan = CacheScan(settings: redis, place: place)
        checks = EntityChecks(clickHouse)
    }

    /// - Parameter progress: called after each step; what it throws ends the run.
    mutating func run(progress: Progress) async throws {
        tally.expected = try await scan.begin()
        let owners = await scan.owners(of: place)
        for type in place.types where isWanted(type.typeID) {
            for shard in 0..<max(type.shardCount, 1) {
                tally.shards[.init(entityType: type.name, shard: shard)] = ShardUse()
            }
        }
        let pace = Pace(keysPerSecond: settings.keysPerSecond)
        var isEnd = false
        while !isEnd {
            try Task.checkCancellation()
            let step = try await scan.step()
            isEnd = step.isEnd
            try await look(at: step.keys, owners)
            // Most of a shared Redis may be others' keys, which a step passes by.
            tally.scanned = min(tally.scanned + Int64(step.passed), tally.expected)
            if isEnd { tally.scanned = tally.expected }
            try await progress(tally)
            if !isEnd { try await pace.rest(after: tally.scanned) }
        }
    }

    private mutating func look(at keys: [[UInt8]], _ owners: KeyOwners) async throws {
        var entities: [EntityAddress] = []
        var parts: Set<EntityAddress> = []
        var measured: [(key: [UInt8], shard: ShardUse.Key, isEntity: Bool)] = []
        for key in keys {
            switch owners.owner(of: key) {
            case .entity(let typeID, let id, let part):
                guard isWanted(typeID) else { continue }
                let entity = EntityAddress(typeID: typeID, id: id)
                measured.append((key, shard(typeID, id), true))
                if part == .counts { entities.append(entity) } else { parts.insert(entity) }
            case .userMap(let typeID, let id):
                guard isWanted(typeID) else { continue }
                tally.count("user_map", of: name(typeID))
                measured.append((key, shard(typeID, id), false))
            case .ours(let typeID): if isWanted(typeID) { tally.count("other", of: name(typeID)) }
            case .orphan: try await found(orphan: key)
            case .unknown: tally.count("unknown", of: "")
            }
        }
        for (key, bytes) in zip(measured, try await scan.memory(of: measured.map(\.key))) {
            if key.isEntity {
                tally.shards[key.shard]?.addEntityKey(bytes: bytes)
            } else {
                tally.shards[key.shard]?.addUserMap(bytes: bytes)
            }
        }
        // Those that have counts are looked at where SCAN meets these.
        let alone = Array(parts.subtracting(entities))
        let withCounts = try await scan.withCounts(alone)
        try await look(at: entities + alone.filter { !withCounts.contains($0) })
    }

    private mutating func look(at entities: [EntityAddress]) async throws {
        let first = try await judge(entities, isFirst: true)
        var lasting: [(EntityAddress, EntityLook)] = []
        for verdict in first where verdict.state != .absent {
            switch verdict.state {
            case .kept(let tier):
                count(tier, verdict.entity)
                if isPopular(verdict.look) { lasting.append((verdict.entity, verdict.look)) }
            case .stale:
                tally.count("stale", of: name(verdict.entity.typeID))
                if verdict.look.timeToLive == nil { lasting.append((verdict.entity, verdict.look)) }
            case .absent, .faulty: break
            }
        }
        if !options.isDry { tally.kept += Int64(try await scan.keep(lasting, seconds: Self.timeToLive)) }
        let suspects = first.filter { $0.fault != nil }.map(\.entity)
        guard !suspects.isEmpty else { return }
        try await Task.sleep(for: Self.pause)
        for verdict in try await judge(suspects, isFirst: false) {
            switch verdict.state {
            case .faulty(let fault, let detail): try await found(fault, detail, verdict)
            case .kept(let tier): count(tier, verdict.entity)
            case .stale: tally.count("stale", of: name(verdict.entity.typeID))
            case .absent: break
            }
        }
    }

    struct Verdict {
        var entity: EntityAddress
        var look: EntityLook
        var state: EntityCondition

        var fault: CacheFault? {
            if case .faulty(let fault, _) = state { fault } else { nil }
        }
    }

    /// Looks at entities and compares their counts with ClickHouse.
    ///
    /// In this order: first what is counted, then the catalog, then Redis. So every batch up to the first is in the counts that are found
    /// under the catalog's epochs, and they are those of ClickHouse as of that batch, or as of the chunk in their marker, whichever is
    /// later: what ClickHouse says of that moment never changes.
    private mutating func judge(_ entities: [EntityAddress], isFirst: Bool) async throws -> [Verdict] {
        guard !entities.isEmpty else { return [] }
        let common = try await source.counted()
        place = try await source.place()
        await scan.use(place)
        let looks = try await scan.look(at: entities)
        var verdicts = entities.compactMap { entity in
            looks[entity].map { Verdict(entity: entity, look: $0, state: EntityCondition($0)) }
        }
        for type in place.types {
            let kept = verdicts.indices.filter { index in
                guard case .kept = verdicts[index].state else { return false }
                return verdicts[index].entity.typeID == type.typeID
            }
            guard !kept.isEmpty else { continue }
            guard type.isCounted else {
                if isFirst { for _ in kept { tally.count("unverified", of: type.name) } }
                continue
            }
            let subjects = kept.map { index in
                let counted = verdicts[index].look.marker?.counted
                return EntityCheck.Subject(
                    entityID: verdicts[index].entity.id, last: (counted?.batch ?? common, counted?.part ?? 0))
            }
            let deltas = try await checks.deltas(of: subjects, type, common: common)
            let events = options.isDeep ? try await checks.events(of: subjects, type, common: common) : [:]
            if isFirst { tally.verified += Int64(kept.count) }
            for index in kept {
                let verdict = verdicts[index]
                var truth = deltas[verdict.entity.id] ?? EntityTruth()
                if options.isDeep {
                    let state = events[verdict.entity.id] ?? EntityTruth()
                    if let difference = truth.difference(fromEvents: state, type) {
                        verdicts[index].state = .faulty(.wrongDeltas, difference)
                    }
                    truth.users = state.users ?? 0
                }
                if verdicts[index].fault == nil, let difference = truth.difference(from: verdict.look, type) {
                    verdicts[index].state = .faulty(.drift, difference)
                }
            }
        }
        return verdicts
    }

    /// Whether somebody has used the entity since it was built, and since this command has last looked at it, which counts as a use.
    private func isPopular(_ look: EntityLook) -> Bool {
        guard let left = look.timeToLive else { return true }
        guard left < Self.timeToLive * 1000 / 2, let idle = look.idle, let built = look.marker?.builtAt else {
            return false
        }
        return now() - idle > max(built, lastLook ?? 0) + Self.slack
    }

    // MARK: Faults

    private mutating func found(_ fault: CacheFault, _ detail: String, _ verdict: Verdict) async throws {
        var finding = ReconcileTally.Finding(
            key: await scan.name(of: verdict.entity), entityType: name(verdict.entity.typeID),
            entityID: verdict.entity.id,
            fault: fault, detail: detail)
        if mayRepair(fault) {
            // If it is another one by now the agent has built it since: there is nothing left to tell of.
            guard try await scan.repair(verdict.entity, verdict.look, fault.repair) else { return }
            finding.isRepaired = true
        }
        tally.add(finding)
    }

    private mutating func found(orphan key: [UInt8]) async throws {
        // Its type may have been made since this run began.
        let owners = await scan.owners(of: try await source.place())
        guard owners.owner(of: key) == .orphan else { return }
        var finding = ReconcileTally.Finding(
            key: String(decoding: key, as: UTF8.self), entityType: "", entityID: nil, fault: .orphan,
            detail: "no such type or shard")
        if mayRepair(.orphan) { finding.isRepaired = try await scan.unlink(key) }
        tally.add(finding)
    }

    private func mayRepair(_ fault: CacheFault) -> Bool {
        !options.isDry && fault.repair != .none && tally.repaired < settings.mostRepairs
    }

    private func isWanted(_ typeID: Int16) -> Bool { options.entityTypes.contains(name(typeID)) }

    private mutating func count(_ tier: EntityTier, _ entity: EntityAddress) {
        tally.count(tier == .regular ? "regular" : "viral", of: name(entity.typeID))
        tally.shards[shard(entity.typeID, entity.id)]?.addEntity(tier)
    }

    private func shard(_ typeID: Int16, _ id: Int64) -> ShardUse.Key {
        let type = place.types.first { $0.typeID == typeID }
        return ShardUse.Key(
            entityType: type?.name ?? "", shard: KeyTemplate.shard(of: id, count: type?.shardCount ?? 1))
    }

    private func name(_ typeID: Int16) -> String {
        place.types.first { $0.typeID == typeID }?.name ?? ""
    }
}

/// Rests until no more keys were looked at than may be.
private struct Pace {
    let keysPerSecond: Int
    private let started = ContinuousClock.now

    init(keysPerSecond: Int) {
        self.keysPerSecond = keysPerSecond
    }

    func rest(after keys: Int64) async throws {
        let due = started + .seconds(Double(keys) / Double(max(keysPerSecond, 1)))
        if due > .now { try await Task.sleep(until: due) }
    }
}
