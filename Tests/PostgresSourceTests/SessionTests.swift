import AgentTestSupport
import Pipeline
import ReactionModel
import TestSupport
import Testing

@testable import PostgresSource

@Suite struct SessionTests {
    @Test func onlyOneAgentLeads() async throws {
        let database = try await OutboxDatabase.make()
        let (leader, _) = try await database.leader()
        let follower = database.source()
        try await follower.open()
        #expect(try await !follower.becomeLeader())
        #expect(try await follower.report().leaderPID != nil)
        await leader.close()
        try await eventually { try await follower.becomeLeader() }
    }

    @Test func aStandbyIsRefused() async throws {
        let server = try await PostgresServer.start { path in
            try await PostgresServer.tool(
                "initdb", ["--pgdata", path, "--username=postgres", "--auth=trust", "--no-sync"])
            try await run(["/usr/bin/touch", path + "/standby.signal"], user: "postgres")
        }
        let source = PostgresSource(settings: PostgresSettings(conninfo: server.conninfo()))
        let error = await #expect(throws: (any Error).self) { try await source.open() }
        #expect("\(error, default: "")".contains("standby"))
    }

    @Test func aKilledSessionIsNotUsedAgain() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        try database.connect().execute(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = 'reactiond mirror' AND datname = current_database()
            """)
        try await eventually {
            do {
                _ = try await source.now()
                return false
            } catch { return "\(error)".contains("session has ended") }
        }
        try await source.open()
        _ = try await source.now()
    }

    /// Else a service would get the same error for ever after an update of the extension.
    @Test func aStatementIsPreparedOnceAndEndsTheSessionWhenItsPlanIsOfNoUse() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        try writer.execute("CREATE TABLE public.t (a integer)")
        let settings = PostgresSettings(conninfo: database.conninfo)
        let session = try settings.openSession("test", .calls, wakeUp: WakeUp())
        let sql = "SELECT a FROM public.t WHERE a > $1"
        #expect(try session.queryPrepared(sql, ["1"]).rows.isEmpty)
        try writer.execute("INSERT INTO public.t VALUES (1), (2); CREATE INDEX ON public.t (a)")
        #expect(try session.queryPrepared(sql, ["1"]).text(0, 0) == "2")
        #expect(try session.queryPrepared(sql, ["0"]).rows.count == 2)
        #expect(try session.queryPrepared("SELECT 1").text(0, 0) == "1")
        #expect(try session.query("SELECT count(*) FROM pg_prepared_statements").text(0, 0) == "2")

        try writer.execute("ALTER TABLE public.t ALTER a TYPE bigint")
        let error = #expect(throws: (any Error).self) { try session.queryPrepared(sql, ["1"]) }
        #expect("\(error, default: "")".contains("cached plan"))
        #expect(!session.isUsable)
    }

    @Test func aNotificationAndAnInterruptEndTheWait() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let writer = try database.connect()
        let clock = ContinuousClock()
        let heard = try await clock.measure {
            async let waited: Void = source.awaitBell(heartbeat: .seconds(600))
            try writer.execute("NOTIFY reactions")
            try await waited
        }
        #expect(heard < .seconds(300))
        let interrupted = try await clock.measure {
            async let waited: Void = source.awaitBell(heartbeat: .seconds(600))
            source.interrupt()
            try await waited
        }
        #expect(interrupted < .seconds(300))
    }

    @Test func theHorizonIsAboveEveryWriterThatMayHaveMissedTheFlag() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let writer = try database.connect()
        try writer.execute("BEGIN")
        try writer.writeEvent(user: 1, entity: 1, set: 1)
        let horizon = try await source.fallAsleep()
        #expect(try await source.look().oldestRunning < horizon)
        try writer.execute("COMMIT")
        // Transaction ids are the whole server's, and other tests use them too.
        try await eventually { try await source.look().oldestRunning >= horizon }
        try await source.stayAwake()
    }

    @Test func theCatalogHasTypesAndKinds() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let catalog = try #require(try await source.look().batch).catalog
        #expect(catalog[1]?.name == "Image")
        #expect(catalog[1]?.kinds == [Kind(name: "Like", flag: 1), Kind(name: "Heart", flag: 2)])
        #expect(try await source.raiseEpochs([1]))
        try database.connect().writeEvent(user: 1, entity: 1, set: 1)
        #expect(try await source.look().batch?.catalog[1]?.epoch == 1)
    }

    @Test func eventsComeAsTheyWereWritten() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let writer = try database.connect()
        let version = try writer.writeEvent(
            user: .min, entity: .max, set: 1 << 30, clear: 3, type: 2, deltaKnown: false)
        let times = try writer.query(
            """
            SELECT (extract(epoch FROM created_at) * 1000000)::bigint, (extract(epoch FROM written_at) * 1000000)::bigint
            FROM reactions._outbox
            """)
        let batch = try #require(try await source.look().batch)
        #expect(
            try await source.allEvents(of: batch) == [
                Event(
                    version: Version(rawValue: version), typeID: 2, userID: .min, entityID: .max, setMask: 1 << 30,
                    clearMask: 3, isDeltaKnown: false, createdAt: Int64(times[0][0] ?? "") ?? 0,
                    writtenAt: Int64(times[0][1] ?? "") ?? 0)
            ])
        #expect(batch.typeIDs == [2])
    }
}
