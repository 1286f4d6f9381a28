internal import ClickHouseStore
internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ReactionModel
internal import RedisStore

/// Reads wanted entities of ClickHouse and has them installed, those that are missed most first, during one term.
///
/// A reading is as of a batch that is confirmed with all before it; what is counted meanwhile is noted by the counter. ClickHouse may
/// have lost what it had confirmed, if it was restarted: the answer of a server counts if it is the one that was verified before it was
/// asked.
struct Rebuilder: Sendable {
    /// Whoever misses one entity misses others, and waits for them a moment.
    static let busyInterval: Duration = .milliseconds(10)
    static let busyFor: Duration = .seconds(2)
    static let idleInterval: Duration = .milliseconds(200)
    /// Then nobody waits: the first one who misses an entity asks the truth himself.
    static let idleFor: Duration = .seconds(10)
    static let quietInterval: Duration = .seconds(1)
    /// A type that is new, or whose table is brought over by now, may have no batch that tells of it.
    static let catalogInterval: Duration = .seconds(5)
    /// Reactors whose lists are in memory at a time.
    static let reactorsPerQuestion: Int64 = 200_000
    /// Of a viral entity: users come back, and some have no reaction any more.
    static let eventsOfSample = 2 * EntityState.sampleSize
    static let pagesOfSample = 10

    /// How many entities are asked for together.
    struct Together {
        static let most = 500
        private(set) var limit = most

        mutating func succeeded() {
            limit = min(2 * limit, Self.most)
        }

        /// One of them may be the reason: what it is asked for together with is not to wait for it.
        mutating func failed(of count: Int) {
            if count > 0 { limit = max(count / 2, 1) }
        }
    }

    let postgres: PostgresSource
    let deliverer: Deliverer
    let store: EntityStore
    let counter: EntityCounter
    let entitiesPerSecond: Int
    let longestBackoff: Duration
    let metrics: Metrics
    let logger: Logger

    func run() async {
        var backoff = Backoff(limit: longestBackoff)
        var allowance = Double(entitiesPerSecond)
        var last = ContinuousClock.now
        var lastFound = last
        var lastCatalog = last
        var together = Together()
        while !Task.isCancelled {
            let now = ContinuousClock.now
            allowance = min(
                allowance + (now - last) / .seconds(1) * Double(entitiesPerSecond), Double(max(entitiesPerSecond, 1)))
            last = now
            let pause: Duration
            var wanted: [EntityID] = []
            do {
                if now - lastCatalog >= Self.catalogInterval {
                    _ = await counter.use(try await postgres.catalog())
                    lastCatalog = now
                }
                wanted = try await counter.takeWanted(min(Int(allowance), together.limit))
                if !wanted.isEmpty {
                    try await rebuild(wanted)
                    together.succeeded()
                    allowance -= Double(wanted.count)
                    lastFound = .now
                }
                pause = Self.interval(after: .now - lastFound)
                backoff.succeeded()
            } catch {
                if Task.isCancelled { return }
                pause = backoff.failed()
                together.failed(of: wanted.count)
                await mend(error)
            }
            try? await Task.sleep(for: pause)
        }
    }

    /// - Parameter quiet: how long nothing was wanted.
    static func interval(after quiet: Duration) -> Duration {
        if quiet < busyFor { return busyInterval }
        return quiet < busyFor + idleFor ? idleInterval : quietInterval
    }

    private func rebuild(_ wanted: [EntityID]) async throws {
        let catalog = await counter.use(try await postgres.catalog())
        let base = try await postgres.confirmedBatch()
        let server = try await deliverer.verifiedStart()
        let entities = try await counter.begin(wanted, asOf: base)
        do {
            for (typeID, entities) in Dictionary(grouping: entities, by: \.typeID) {
                guard let type = catalog[typeID] else {
                    await counter.giveUp(entities)
                    continue
                }
                try await rebuild(entities.map(\.entityID), EntityQuery(type: type, asOf: base), type, server)
            }
        } catch {
            // An entity that fails by itself is read again when it is missed again.
            if entities.count > 1 { await counter.abandon(entities) } else { await counter.giveUp(entities) }
            throw error
        }
    }

    private func rebuild(
        _ ids: [Int64], _ query: EntityQuery, _ type: EntityType, _ server: Int64
    ) async throws {
        let counts = try await store.counts(of: ids, query)
        var regular: [(id: Int64, total: Int64)] = []
        var viral: [Int64] = []
        for id in ids {
            let total = (counts[id] ?? []).reduce(0) { $0 + $1.count }
            let tier = await counter.tier(of: EntityID(typeID: type.typeID, entityID: id), total: total)
            if tier == .viral { viral.append(id) } else { regular.append((id, total)) }
        }
        while !regular.isEmpty {
            var sum: Int64 = 0
            let some = regular.prefix { entity in
                defer { sum += max(entity.total, 0) }
                return sum == 0 || sum + entity.total <= Self.reactorsPerQuestion
            }
            regular.removeFirst(some.count)
            let found = try await store.reactors(of: some.filter { $0.total != 0 }.map(\.id), query)
            try await install(
                some.map {
                    reading(
                        $0.id, EntityState(tier: .regular, allFlags: type.allFlags, reactors: found[$0.id] ?? []), type)
                }, server)
        }
        for id in viral {
            let (reactors, floor) = try await sample(of: id, query)
            let state = Self.viral(counts[id] ?? [], reactors, floor, type)
            try await install([reading(id, state, type)], server)
        }
    }

    /// Few of the newest events may be of users who have a reaction: then those before them are read, too.
    private func sample(
        of id: Int64, _ query: EntityQuery
    ) async throws -> (reactors: [Reactor], floor: ReactionPosition?) {
        var (reactors, floor) = try await store.newest(Self.eventsOfSample, of: id, query)
        for _ in 1..<Self.pagesOfSample where reactors.count < EntityState.sampleSize {
            guard let below = floor else { break }
            let page = try await store.newest(Self.eventsOfSample, of: id, below: below, query)
            reactors += page.reactors
            floor = page.floor
        }
        return (reactors, floor)
    }

    private func reading(_ id: Int64, _ state: EntityState, _ type: EntityType) -> EntityCounter.Reading {
        EntityCounter.Reading(id: EntityID(typeID: type.typeID, entityID: id), state: state)
    }

    static func viral(
        _ counts: [EntityQuery.Count], _ reactors: [Reactor], _ floor: ReactionPosition?, _ type: EntityType
    ) -> EntityState {
        var numbers = [Int64].counts(of: type.allFlags)
        for count in counts { numbers[count.flag.trailingZeroBitCount] = count.count }
        let users: Int64? =
            type.mode == .exclusive ? numbers.reduce(0, +) : floor == nil ? Int64(reactors.count) : nil
        return EntityState(tier: .viral, counts: numbers, users: users, reactors: reactors, floor: floor)
    }

    private func install(_ readings: [EntityCounter.Reading], _ server: Int64) async throws {
        try await store.expect(startedAt: server)
        let senseless = readings.filter { $0.state.counts.contains { $0 < 0 } }
        for reading in senseless {
            logger.error(
                "ClickHouse tells a count below zero: reconcile", metadata: ["entity": "\(reading.id.entityID)"])
        }
        await counter.giveUp(senseless.map(\.id))
        try await counter.install(
            senseless.isEmpty ? readings : readings.filter { !$0.state.counts.contains { $0 < 0 } })
    }

    private func mend(_ error: any Error) async {
        switch error {
        case let error as CacheError where !error.displacedTypes.isEmpty:
            logger.warning("entities made absent", metadata: ["error": "\(error.message)"])
            do {
                guard try await postgres.raiseEpochs(error.displacedTypes) else { return }
                metrics.update { $0.raisedEpochs += 1 }
                _ = await counter.use(try await postgres.catalog())
            } catch {
                await mend(error)
            }
        case let error as CacheError:
            metrics.update { $0.redisFailures += 1 }
            logger.warning("entities not rebuilt", metadata: ["error": "\(error.message)"])
        case let error as SinkError:
            metrics.update { $0.sinkFailures += 1 }
            logger.warning("entities not rebuilt", metadata: ["error": "\(error.message)", "code": "\(error.code)"])
        default:
            logger.warning("entities not rebuilt", metadata: ["error": "\(error)"])
            do { try await postgres.open() } catch { await postgres.close() }
        }
    }
}
