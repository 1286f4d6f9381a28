import AgentTestSupport
import Pipeline
import ReactionModel
import TestSupport
import Testing

@testable import PostgresSource

@Suite struct OutboxTests {
    /// Rotates at once and keeps nothing.
    private static var eager: PostgresSource.BatchLimits {
        var limits = PostgresSource.BatchLimits()
        limits.rotateBytes = 1
        limits.retention = .zero
        limits.maintenanceInterval = .zero
        return limits
    }

    @Test func aTableIsEmptiedOnlyWhenNoWriterHoldsItAndAllIsFinished() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader(Self.eager)
        let writer = try database.connect()
        let slow = try database.connect()
        let rows = "SELECT count(*) FROM reactions._outbox_0"
        try writer.writeEvent(user: 1, entity: 1, set: 1)
        try slow.execute("BEGIN")
        let late = try slow.writeEvent(user: 2, entity: 2, set: 1)
        try await source.maintain(unverified: .zero)
        #expect(try writer.value("SELECT current_outbox FROM reactions._mirror") == "1")

        _ = try await source.deliverNext()
        try await source.maintain(unverified: .zero)
        #expect(try writer.value(rows) == "1")
        try slow.execute("COMMIT")
        try await source.maintain(unverified: .zero)
        #expect(try writer.value(rows) == "2")

        #expect(try await source.deliverNext() == [late])
        try await eventually {
            _ = try await source.deliverNext()
            try await source.maintain(unverified: .zero)
            return try writer.value(rows) == "0"
        }
        #expect(try await source.floor() >= late)
    }

    @Test func aTableThatIsBeingReadIsLeftAlone() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader(Self.eager)
        let writer = try database.connect()
        try writer.writeEvent(user: 1, entity: 1, set: 1)
        try await source.maintain(unverified: .zero)
        let reader = try database.connect()
        try reader.execute("BEGIN; LOCK TABLE reactions._outbox_0 IN ACCESS SHARE MODE")
        try await eventually {
            _ = try await source.deliverNext()
            return try await source.floor() > 0
        }
        try await source.maintain(unverified: .zero)
        #expect(try writer.value("SELECT count(*) FROM reactions._outbox_0") == "1")
        try reader.execute("COMMIT")
        try await eventually {
            try await source.maintain(unverified: .zero)
            return try writer.value("SELECT count(*) FROM reactions._outbox_0") == "0"
        }
    }

    @Test func keptBatchesCanBeReadAgainAndTheNewestIsNeverDropped() async throws {
        let database = try await OutboxDatabase.make()
        var limits = PostgresSource.BatchLimits()
        limits.maintenanceInterval = .zero
        let (source, _) = try await database.leader(limits)
        let writer = try database.connect()
        var batches: [[Int64]] = []
        for user in 1...3 {
            try writer.writeEvent(user: Int64(user), entity: 1, set: 1)
            batches.append(try await source.deliverNext())
        }
        try writer.execute(
            "UPDATE reactions._batch SET finished_at = now() - interval '1 hour' WHERE batch & 1048575 <= 2")
        try await source.maintain(unverified: .zero)
        #expect(try writer.value("SELECT min(batch & 1048575) FROM reactions._batch") == "2")
        let kept = try await source.batches(confirmedBefore: Int64.max / 2)
        #expect(try await source.allEvents(of: try #require(kept.last)).map(\.version.rawValue) == batches[2])
        try writer.execute("UPDATE reactions._batch SET finished_at = now() - interval '1 hour'")
        try await source.maintain(unverified: .zero)
        #expect(try writer.value("SELECT count(*) FROM reactions._batch") == "1")
    }

    @Test func manySkippedRowsBecomeTheirSum() async throws {
        let database = try await OutboxDatabase.make()
        var limits = PostgresSource.BatchLimits()
        limits.skippedRows = 10
        let (source, _) = try await database.leader(limits)
        let setUp = try database.connect()
        try setUp.execute(
            """
            INSERT INTO reactions._skipped SELECT n, 1, 'Dislike', n, now() FROM generate_series(1, 20) n;
            INSERT INTO reactions._skipped SELECT 100 + n, 2, 'Dislike', n, now() FROM generate_series(1, 5) n;
            """)
        try await source.maintain(unverified: .zero)
        let rows = try setUp.query("SELECT type_id, count(*), sum(rows) FROM reactions._skipped GROUP BY 1 ORDER BY 1")
        #expect(rows == [["1", "1", "210"], ["2", "5", "15"]])
    }

    @Test func parkingAgainChangesNothing() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let version = Version(rawValue: try database.connect().writeEvent(user: 1, entity: 1, set: 1))
        let batch = try #require(try await source.look().batch)
        for _ in 0..<2 { try await source.park([version], batch: batch.number, errorCode: 27, error: "no") }
        let parked = try await source.parkedEvents(of: batch.number, from: version, through: version)
        #expect(parked.map(\.version) == [version])
        #expect(parked.map(\.errorCode) == [27])
    }

    @Test func afterARestoredDumpEverythingIsUndeliveredOnce() async throws {
        let database = try await OutboxDatabase.make()
        let setUp = try database.connect()
        try setUp.execute(
            """
            TRUNCATE reactions._generation;
            INSERT INTO reactions._generation VALUES (1, 42, 1);
            INSERT INTO reactions._outbox_1
            SELECT 1::bigint << 44 | n, '99999999'::xid8, n, 1, now(), now(), 1, 0, 1, 'r', true FROM generate_series(1, 3) n;
            """)
        let (source, term) = try await database.leader()
        #expect(term.generation == 2)
        #expect(try setUp.value("SELECT match_wanted FROM reactions._mirror") == "restored from a dump")
        let version = try setUp.writeEvent(user: 9, entity: 9, set: 1)
        #expect(version >> Version.sequenceBits == 2)
        #expect(try await source.deliverNext().count == 4)
        #expect(try await source.look().batch?.events ?? 0 == 0)
        let next = try setUp.writeEvent(user: 9, entity: 9, set: 2)
        #expect(try await source.deliverNext() == [next])
    }

    @Test func aRaisedGenerationAsksForAMatch() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let writer = try database.connect()
        try writer.writeEvent(user: 1, entity: 1, set: 1)
        _ = try await source.deliverNext()
        await source.close()
        try writer.execute("INSERT INTO reactions._generation VALUES (2, 42, 7)")
        let (successor, term) = try await database.leader()
        #expect(term.generation == 3)
        #expect(try writer.value("SELECT match_wanted LIKE 'generation raised to %' FROM reactions._mirror") == "t")
        let version = try writer.writeEvent(user: 1, entity: 1, set: 2)
        let batch = try #require(try await successor.look().batch)
        #expect(batch.number.rawValue >> Version.sequenceBits == 3)
        #expect(try await successor.allEvents(of: batch).map(\.version.rawValue) == [version])
    }
}
