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
    /// What the agent gives the keys of an entity to live when it writes them.
    public var timeToLive: Duration

    public init(keysPerSecond: Int, mostRepairs: Int64, timeToLive: Duration) {
        self.keysPerSecond = keysPerSecond
        self.mostRepairs = mostRepairs
        self.timeToLive = timeToLive
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
        /// Compare the deltas with the events, and every list with who has reacted, too.
        var isDeep: Bool
    }

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
    private let verifier: EntityVerifier
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
        verifier = EntityVerifier(
            source: source, scan: scan, checks: EntityChecks(clickHouse), store: EntityStore(clickHouse.patient()),
            confirmations: Confirmations(source: source, sink: ClickHouseSink(clickHouse.patient())),
            isDeep: options.isDeep)
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
        var passed: Int64 = 0
        var isEnd = false
        while !isEnd {
            try Task.checkCancellation()
            let step = try await scan.step()
            isEnd = step.isEnd
            try await look(at: step.keys, owners)
            // Most of a shared Redis may be others' keys, which a step passes by; and there may be more than at the beginning.
            passed += Int64(step.passed)
            tally.scanned = isEnd ? tally.expected : min(passed, tally.expected)
            try await progress(tally)
            if !isEnd { try await pace.rest(after: passed) }
        }
    }

    private mutating func look(at keys: [[UInt8]], _ owners: KeyOwners) async throws {
        var entities: [EntityAddress] = []
        var parts: Set<EntityAddress> = []
        var measured: [(key: [UInt8], shard: ShardUse.Key, isEntity: Bool)] = []
        var others: [(key: [UInt8], typeID: Int16, type: String)] = []
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
                others.append((key, typeID, "hash"))
            case .ours(let typeID, let type):
                guard isWanted(typeID) else { continue }
                tally.count("other", of: name(typeID))
                others.append((key, typeID, type))
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
        for (other, type) in zip(others, try await scan.types(of: others.map(\.key)))
        where type != other.type && type != "none" {
            try await found(.wrongType, "a \(type)", at: other.key, of: name(other.typeID))
        }
        // Those that have counts are looked at where SCAN meets these.
        let alone = Array(parts.subtracting(entities))
        let withCounts = try await scan.withCounts(alone)
        try await look(at: entities + alone.filter { !withCounts.contains($0) })
    }

    private mutating func look(at entities: [EntityAddress]) async throws {
        guard !entities.isEmpty else { return }
        let first = try await judge(entities, isLast: false)
        tally.verified += Int64(first.count(where: \.isVerified))
        var lasting: [(EntityAddress, EntityLook)] = []
        for verdict in first {
            count(verdict)
            switch verdict.state {
            case .kept: if isPopular(verdict.look) { lasting.append((verdict.entity, verdict.look)) }
            case .stale: if verdict.look.timeToLive == nil { lasting.append((verdict.entity, verdict.look)) }
            case .absent, .faulty: break
            }
        }
        if !options.isDry { tally.kept += Int64(try await scan.keep(lasting, seconds: timeToLive)) }
        let suspects = first.filter { $0.fault != nil }.map(\.entity)
        guard !suspects.isEmpty else { return }
        try await Task.sleep(for: Self.pause)
        for verdict in try await judge(suspects, isLast: true) {
            count(verdict)
            if case .faulty(let fault, let detail) = verdict.state { try await found(fault, detail, verdict) }
        }
    }

    private mutating func judge(
        _ entities: [EntityAddress], isLast: Bool
    ) async throws -> [EntityVerifier.Verdict] {
        let (verdicts, place) = try await verifier.judge(entities, isLast: isLast)
        self.place = place
        return verdicts
    }

    /// Counts what is no fault.
    private mutating func count(_ verdict: EntityVerifier.Verdict) {
        switch verdict.state {
        case .kept(let tier):
            tally.count(tier == .regular ? "regular" : "viral", of: name(verdict.entity.typeID))
            tally.shards[shard(verdict.entity.typeID, verdict.entity.id)]?.addEntity(tier)
            if !verdict.isVerified { tally.count("unverified", of: name(verdict.entity.typeID)) }
        case .stale: tally.count("stale", of: name(verdict.entity.typeID))
        case .absent, .faulty: break
        }
    }

    /// Whether somebody has used the entity since it was built, and since this command has last looked at it, which counts as a use.
    private func isPopular(_ look: EntityLook) -> Bool {
        guard let left = look.timeToLive else { return true }
        guard left < timeToLive * 1000 / 2, let idle = look.idle, let built = look.marker?.builtAt else {
            return false
        }
        return now() - idle > max(built, lastLook ?? 0) + Self.slack
    }

    /// In seconds.
    private var timeToLive: Int64 { max(1, settings.timeToLive.components.seconds) }

    // MARK: Faults

    private mutating func found(_ fault: CacheFault, _ detail: String, _ verdict: EntityVerifier.Verdict) async throws {
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
        try await found(.orphan, "no such type or shard", at: key, of: "")
    }

    /// A key that is no entity's: nothing of it is needed.
    private mutating func found(
        _ fault: CacheFault, _ detail: String, at key: [UInt8], of entityType: String
    ) async throws {
        var finding = ReconcileTally.Finding(
            key: String(decoding: key, as: UTF8.self), entityType: entityType, entityID: nil, fault: fault,
            detail: detail)
        if mayRepair(fault) {
            // SCAN may tell a key twice.
            guard try await scan.unlink(key) else { return }
            finding.isRepaired = true
        }
        tally.add(finding)
    }

    private func mayRepair(_ fault: CacheFault) -> Bool {
        !options.isDry && fault.repair != .none && tally.repaired < settings.mostRepairs
    }

    private func isWanted(_ typeID: Int16) -> Bool { options.entityTypes.contains(name(typeID)) }

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
