import AgentTestSupport
import Glibc
import Logging
import Pipeline
import PostgresSource
import ReactionModel
import TestSupport
import Testing

@testable import ReactionAgent

@Suite struct MirrorServiceTroubleTests {
    @Test func withoutRedisTheEpochRisesAndTheMirrorGoesOn() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        let cache = MemoryCache()
        cache.setFailing(true)
        let version = try writer.writeEvent(user: 1, entity: 1, set: 1, type: 2)
        try await withMirror(of: database, sink: sink, cache: cache) { metrics in
            try await eventually {
                try writer.value("SELECT floor FROM reactions._mirror").flatMap { Int64($0) } ?? 0 >= version
            }
            #expect(try writer.value("SELECT epoch FROM reactions.entity_type WHERE type_id = 1") == "0")
            #expect(try writer.value("SELECT epoch > 0 FROM reactions.entity_type WHERE type_id = 2") == "t")
            cache.setFailing(false)
            let next = try writer.writeEvent(user: 1, entity: 1, set: 2, type: 2)
            try await eventually { cache.versions.contains(next) }
            try await eventually { metrics.isReady }
        }
    }

    @Test func aLockedTypeDoesNotKeepTheMirrorFromClickHouse() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let holder = try database.connect()
        let sink = MemorySink()
        let cache = MemoryCache()
        cache.setFailing(true)
        try holder.execute("BEGIN; UPDATE reactions.entity_type SET epoch = epoch + 1 WHERE type_id = 1")
        try await withMirror(of: database, sink: sink, cache: cache) { metrics in
            try writer.writeEvent(user: 1, entity: 1, set: 1)
            let waiting = """
                SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reactiond mirror' AND wait_event_type = 'Lock'
                AND datname = current_database()
                """
            try await eventually { try writer.value(waiting) == "1" }
            let last = try writer.writeEvent(user: 2, entity: 1, set: 1)
            try await eventually { sink.versions.contains(last) }
            try holder.execute("COMMIT")
            try await eventually {
                try writer.value("SELECT floor FROM reactions._mirror").flatMap { Int64($0) } ?? 0 >= last
            }
            #expect(try writer.value("SELECT epoch > 1 FROM reactions.entity_type WHERE type_id = 1") == "t")
            #expect(metrics.text().contains("reactiond_postgres_failures_total 0\n"))
        }
    }

    @Test func whoseTermIsOverDoesNotProveByTheNextTermsSessionThatItLeads() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let deliverer = Deliverer(
            source: source, sink: MemorySink(), reader: ChunkReader(reader: await source.makeReader()),
            metrics: Metrics(), logger: Logger(label: "test"), inherited: nil, requestTimeout: .zero)
        try await deliverer.proveLeading()
        let former = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            try await deliverer.proveLeading()
        }
        await #expect(throws: CancellationError.self) { try await former.value }
    }

    @Test func withoutClickHouseRedisStillGetsEverything() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        let cache = MemoryCache()
        sink.fail(Array(repeating: SinkError(disposition: .retry, message: "away"), count: 60))
        try await withMirror(of: database, sink: sink, cache: cache) { metrics in
            var written: Set<Int64> = []
            for user in 1...3 {
                let version = try writer.writeEvent(user: Int64(user), entity: 1, set: 1)
                written.insert(version)
                try await eventually { cache.versions.contains(version) }
            }
            try await eventually { Set(sink.versions) == written }
            try await eventually { metrics.isReady }
        }
    }

    @Test func aRestartedClickHouseIsAskedForManyBatchesAtOnce() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        try await withMirror(of: database, sink: sink) { _ in
            var written: [Int64] = []
            for user in 1...5 {
                written.append(try writer.writeEvent(user: Int64(user), entity: 1, set: 1))
                try await eventually { sink.versions == written }
            }
            let connects = sink.connects
            sink.restart(losing: [written[2]], at: Int64(time(nil)))
            sink.fail([SinkError(disposition: .retry, message: "restarting")])
            written.append(try writer.writeEvent(user: 6, entity: 1, set: 1))
            try await eventually { sink.connects > connects && sink.versions.sorted() == written }
            #expect(sink.chunksLookedAt == 1)
        }
    }

    @Test(arguments: [true, false])
    func whatARestartedClickHouseLostIsSentAgain(rowsAreKnown: Bool) async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        sink.setTelling(rowsAreKnown)
        let now = Int64(try writer.value("SELECT extract(epoch FROM now())::bigint") ?? "") ?? 0
        try await withMirror(of: database, sink: sink) { _ in
            let first = try writer.writeEvent(user: 1, entity: 1, set: 1)
            try await eventually { sink.versions == [first] }
            sink.restart(losing: [first], at: now)
            sink.fail([SinkError(disposition: .retry, message: "restarting")])
            let second = try writer.writeEvent(user: 2, entity: 1, set: 1)
            try await eventually { Set(sink.versions) == [first, second] }
        }
    }

    @Test func whatAClickHouseLostThatWasAwayForLongerThanTheRetentionIsSentAgainThoughNothingIsWritten() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        var limits = PostgresSource.BatchLimits()
        limits.retention = .seconds(1)
        limits.maintenanceInterval = .zero
        limits.rotateBytes = 1
        try await withMirror(of: database, sink: sink, limits: limits, idle: .seconds(60)) { _ in
            var written: [Int64] = []
            let finished = "SELECT count(*) FROM reactions._batch WHERE events > 0 AND finished_at"
            for user in 1...2 {
                written.append(try writer.writeEvent(user: Int64(user), entity: 1, set: 1))
                try await eventually { try writer.value("\(finished) IS NOT NULL") == "\(user)" }
            }
            sink.setAway(true)
            try await eventually {
                try writer.value("\(finished) > clock_timestamp() - interval '3 s'") == "0"
            }
            sink.restart(losing: [written[0]], at: Int64(time(nil)))
            sink.setAway(false)
            try await eventually(within: .seconds(60)) { sink.versions.sorted() == written }
            // What is known to be there is dropped; the newest one says where the next begins.
            try await eventually(within: .seconds(60)) { try writer.value("\(finished) IS NOT NULL") == "1" }
        }
    }

    @Test func whatARestartedClickHouseLostWhileRedisWasAwayIsSentAgain() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        let cache = MemoryCache()
        cache.setFailing(true)
        try await withMirror(of: database, sink: sink, cache: cache, redisGiveUp: .seconds(60)) { _ in
            let first = try writer.writeEvent(user: 1, entity: 1, set: 1)
            let confirmed = "SELECT count(*) FROM reactions._batch WHERE events > 0 AND confirmed_at IS NOT NULL"
            try await eventually { try writer.value(confirmed) == "1" }
            sink.restart(losing: [first], at: Int64(time(nil)))
            sink.fail([SinkError(disposition: .retry, message: "restarting")])
            let second = try writer.writeEvent(user: 2, entity: 1, set: 1)
            try await eventually { Set(sink.versions) == [first, second] }
            #expect(
                try writer.value("SELECT count(*) FROM reactions._batch WHERE events > 0 AND finished_at IS NULL")
                    == "2")
        }
    }

    @Test func aRestartedClickHouseGetsTheBatchUnderWayFromItsStart() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        var limits = PostgresSource.BatchLimits()
        limits.chunkEvents = 1
        try writer.execute("BEGIN")
        let written = try (0..<3).map { try writer.writeEvent(user: Int64($0), entity: 1, set: 1) }
        try writer.execute("COMMIT")
        sink.leaveUnanswered(written[2])
        try await withMirror(of: database, sink: sink, limits: limits) { metrics in
            try await eventually { sink.versions == [written[0], written[1]] && !metrics.isReady }
            sink.restart(losing: [written[0], written[1]], at: Int64(time(nil)))
            sink.leaveUnanswered(nil)
            try await eventually { sink.versions == written }
        }
    }

    @Test func theNextTermTakesUpWhereALostSessionLeftOff() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        try await withMirror(of: database, sink: sink) { _ in
            var written: [Int64] = []
            for round in 0..<5 {
                for user in 0..<20 {
                    written.append(try writer.writeEvent(user: Int64(user), entity: Int64(round), set: 1))
                }
                try writer.execute(
                    """
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = 'reactiond mirror' AND datname = current_database()
                    """)
            }
            try await eventually { sink.versions.count >= written.count }
            #expect(sink.versions.sorted() == written)
        }
    }
}
