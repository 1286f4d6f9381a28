internal import ClickHouseStore
internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ReactionModel
internal import ServiceLifecycle

/// While this agent leads: erases the users whom `reactions.forget_user` has forgotten, when nothing of theirs can come any more
/// (`Erasures.pending`): their rows in ClickHouse, their maps in Redis, and what else names them.
///
/// What is to be done follows from what is there: a step that was cut off, by whomever, is done again.
struct ErasureService: Service {
    static let interval: Duration = .seconds(1)
    static let idleInterval: Duration = .seconds(5)

    let erasures: Erasures
    let clickHouse: ClickHouseSettings
    let redis: RedisSettings
    let metrics: Metrics
    let logger: Logger

    func run() async throws {
        await withGracefulShutdownHandler {
            await work()
        } onGracefulShutdown: {
            erasures.interrupt()
        }
        await erasures.close()
    }

    private func work() async {
        while !Task.isShuttingDownGracefully, !Task.isCancelled {
            let pause = await round() ? Self.interval : Self.idleInterval
            try? await cancelWhenGracefulShutdown { try await Task.sleep(for: pause) }
        }
    }

    /// Returns whether there are users left to be erased.
    private func round() async -> Bool {
        guard metrics.role == .leading else {
            await erasures.close()
            metrics.update { $0.erasures = nil }
            return false
        }
        do {
            let pending = try await erasures.pending(atMost: Erasure.mostUsers)
            metrics.update { $0.erasures = (pending.count, Double(pending.oldestSeconds)) }
            if !pending.ready.isEmpty { try await erase(pending.ready) }
            return pending.count > 0
        } catch {
            await erasures.close()
            logger.warning("users not erased", metadata: ["error": "\(error)"])
            return true
        }
    }

    /// First ClickHouse: a map that begins after that has nothing of the user.
    private func erase(_ users: [Erasures.Tombstone]) async throws {
        let place = try await erasures.place()
        let erasure = Erasure(
            of: users.map { ($0.userID, $0.version) }, entityTypes: place.types.map(\.name))
        guard try await isErasedInClickHouse(users, erasure) else { return }
        let cache = RedisCache(
            settings: redis, systemIdentifier: place.systemIdentifier, timeline: place.timeline,
            keyPrefix: place.keyPrefix)
        for user in users {
            var maps: [String: Int64] = [:]
            for type in place.types { maps[type.name] = Int64(try await cache.drop([user.userID], of: type)) }
            try await erasures.erased(user, maps: maps)
        }
        logger.notice("users erased", metadata: ["users": "\(users.count)"])
    }

    /// Has the rows deleted that are left. Which takes a while: the next round looks again.
    private func isErasedInClickHouse(_ users: [Erasures.Tombstone], _ erasure: Erasure) async throws -> Bool {
        let store = BackfillStore(clickHouse.patient())
        var found: [Int64: [String: Int64]] = [:]
        for row in try await store.rows(erasure.rows) {
            guard row.count == 3, let user = Int64(row[1]), let count = Int64(row[2]) else { throw SinkError.nonsense }
            found[user, default: [:]][row[0]] = count
        }
        guard !found.isEmpty else {
            // One replica of each shard has said so. The others may be behind, or away, with the rows on their disks.
            for table in Erasure.tables { if try await store.hasReplicaBehind(table) { return false } }
            return true
        }
        for table in Erasure.tables {
            guard try await !store.isDeleting(from: table) else { return false }
        }
        let unbalanced: [Int64] = try await store.numbers(erasure.unbalanced, 1)
        if unbalanced[0] > 0 {
            logger.warning("rows of users do not add up to zero", metadata: ["kinds": "\(unbalanced[0])"])
        }
        for user in users { try await erasures.counted(found[user.userID] ?? [:], of: user) }
        for table in Erasure.tables { try await store.run { erasure.delete(from: table, on: $0, database: $1) } }
        return false
    }
}
