import Foundation
import Synchronization
import TestSupport
import Testing

/// A frozen table, its users, and ClickHouse.
private struct RollbackSite {
    static let users = 400
    static let kinds = ["Like", "Heart", "Laugh", "Cry"]

    let stack: Stack
    let session: PostgresConnection

    /// A table of about three thousand reactions that is in phase `stop_writes`, with an agent that has mirrored all of them.
    static func frozen(_ stack: Stack? = nil) async throws -> (site: RollbackSite, agent: ServerProcess) {
        let stack = if let stack { stack } else { try await Stack.make() }
        let session = try stack.connect()
        try session.execute(
            "CREATE TABLE person (id integer PRIMARY KEY); INSERT INTO person SELECT generate_series(1, \(users))")
        try stack.makePrismaTable(session, phase: "switch_reads")
        try session.execute(
            """
            ALTER TABLE "ImageReaction" ADD FOREIGN KEY ("userId") REFERENCES person ON DELETE CASCADE;
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction, "createdAt")
            SELECT g % \(users) + 1, g / 7, (ARRAY['Like', 'Heart', 'Laugh', 'Cry']::"ReviewReactions"[])[g % 4 + 1], '2020-01-01'
            FROM generate_series(1, 3000) g
            """)
        let agent = try stack.startAgent()
        try await stack.drained(session)
        try session.execute("CALL reactions.advance('Image', force => true)")
        #expect(try session.value("SELECT phase FROM reactions.status()") == "stop_writes")
        return (RollbackSite(stack: stack, session: session), agent)
    }

    /// As `CALL reactions.rollback`, on a thread and a session of its own; what it refuses is returned.
    func rollBack(_ entityType: String = "Image") async throws -> PostgresError? {
        let session = try stack.connect()
        return await onThread {
            do {
                try session.execute("CALL reactions.rollback('\(entityType)')")
                return nil
            } catch {
                return error as? PostgresError
            }
        }
    }

    func phase() throws -> String? { try session.value("SELECT phase FROM reactions.status()") }

    /// Changes many reactions at once, so that there is a middle to be met.
    func change(_ count: Int) throws {
        for first in stride(from: 0, to: count, by: 500) {
            try session.execute(
                """
                SELECT reactions.set_flags(g % \(Self.users) + 1, 10000 + g / \(Self.users), 1 + g % 15)
                FROM generate_series(\(first), \(first + 499)) g
                """)
        }
    }

    func rows() throws -> [[String]] {
        try session.query(
            "SELECT \"userId\", \"imageId\", 'Reaction' || reaction FROM \"ImageReaction\" ORDER BY 1, 2, 3"
        )
        .map { $0.map { $0 ?? "" } }
    }

    func expectAgreement(without refused: Int = 0) async throws {
        try await stack.drained(session)
        let mirrored = try stack.clickHouseRows(
            """
            SELECT userId, entityId, metricType FROM {db}.entityMetricEvents WHERE entityType = 'Image'
            GROUP BY userId, entityId, metricType HAVING argMax(metricValue, version) > 0 ORDER BY userId, entityId, metricType
            """)
        let rows = try rows()
        #expect(BackfillSite.differences(rows, mirrored).count == min(refused, 5))
        #expect(rows.count + refused == mirrored.count)
    }
}

/// Changes reactions of users of its own by the functions, and remembers what it was told.
private final class RollbackWriter: Sendable {
    struct Report {
        /// By user · 1000 + entity.
        var flags: [Int: Int32] = [:]
        var writes = 0
        var failures: [String: Int] = [:]
    }

    private let isOver = Atomic(false)
    private let seed: Int
    private let session: PostgresConnection

    init(_ site: RollbackSite, seed: Int) throws {
        self.seed = seed
        session = try site.stack.connect()
    }

    func stop() { isOver.store(true, ordering: .relaxed) }

    /// Users seed + 1, seed + 5, …: four writers share them all; entities 500 … 559 nobody had reacted to.
    func write() async -> Report {
        await onThread { [self] in
            var report = Report()
            var random = UInt64(seed + 1)
            func next(_ limit: Int) -> Int {
                random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return Int(random >> 33) % limit
            }
            while !isOver.load(ordering: .relaxed) {
                let (user, entity, flags) = (next(100) * 4 + seed + 1, 500 + next(60), Int32(next(16)))
                do {
                    try session.execute("SELECT reactions.set_flags(\(user), \(entity), \(flags))")
                    report.flags[user * 1000 + entity] = flags
                    report.writes += 1
                } catch {
                    report.failures[(error as? PostgresError)?.sqlstate ?? "?", default: 0] += 1
                }
                // Waits for nothing: four writers as fast as they can are as fast as the one who writes back.
                usleep(2_000)
            }
            return report
        }
    }
}

@Suite("Rollback from stop_writes", .serialized) struct RollbackTests {
    @Test("a rollback under writers brings the table level with ClickHouse, and writers see at most a conflict")
    func live() async throws {
        let (site, agent) = try await RollbackSite.frozen()
        defer { agent.stop(15) }
        try site.change(5_000)
        // Taken away from what the table has; one of them is set again, later.
        try site.session.execute(
            """
            SELECT reactions.set_flags(("userId")::bigint, ("imageId")::bigint, 0) FROM "ImageReaction" WHERE "userId" % 5 = 0;
            SELECT reactions.set_flags(r."userId", r."imageId", 1) FROM (
                SELECT "userId", "imageId" FROM "ImageReaction" WHERE reaction = 'Like' AND "userId" % 5 = 0 LIMIT 1) r
            """)
        // So that most of it comes from ClickHouse, and what is written meanwhile from the outbox.
        try await site.stack.drained(site.session)
        let writers = try (0..<4).map { try RollbackWriter(site, seed: $0) }
        let reports = try await withThrowingTaskGroup(of: RollbackWriter.Report.self) { group in
            for writer in writers { group.addTask { await writer.write() } }
            let error = try await site.rollBack()
            #expect(error == nil, "\(String(describing: error)) \(site.stack.agentLog().suffix(2000))")
            #expect(try site.phase() == "switch_reads")
            // Now they write into the table.
            try site.session.execute("SELECT pg_sleep(0.3)")
            for writer in writers { writer.stop() }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        #expect(reports.allSatisfy { Set($0.failures.keys).isSubset(of: ["40001"]) }, "\(reports.map(\.failures))")
        #expect(reports.allSatisfy { $0.writes > 50 })
        try await site.expectAgreement()
        // Every write that was acknowledged, and no other.
        let flags = try site.session.query(
            """
            SELECT "userId" * 1000 + "imageId", sum(CASE reaction WHEN 'Like' THEN 1 WHEN 'Heart' THEN 2 WHEN 'Laugh' THEN 4 ELSE 8 END)
            FROM "ImageReaction" WHERE "imageId" BETWEEN 500 AND 559 GROUP BY 1
            """)
        let found = Dictionary(uniqueKeysWithValues: flags.map { (Int($0[0] ?? "") ?? 0, Int32($0[1] ?? "") ?? 0) })
        let expected = reports.reduce(into: [Int: Int32]()) { $0.merge($1.flags) { $1 } }.filter { $0.value != 0 }
        #expect(found == expected)
        // A reaction that was taken away and set again has its new time, one that was left alone its old one.
        let times = try site.session.query(
            """
            SELECT count(*) FILTER (WHERE "userId" % 5 = 0), count(*) FILTER (WHERE "userId" % 5 = 0 AND "createdAt" > '2021-01-01'),
                   count(*) FILTER (WHERE "userId" % 5 > 0 AND "createdAt" > '2021-01-01') FROM "ImageReaction" WHERE "imageId" < 500
            """)
        #expect(times == [["1", "1", "0"]])
        let done = try site.session.query(
            """
            SELECT w.state, w.keys_done >= 5000 AND w.events_done > 0, w.fence_ms BETWEEN 0 AND 5000, l.changed_by = session_user, l.application, t.stop_version
            FROM reactions.write_backs w, reactions.phase_log l, reactions.entity_type t WHERE l.to_phase = 'switch_reads' AND l.from_phase = 'stop_writes'
            """)
        #expect(done == [["done", "t", "t", "t", "reactiond", nil]])
    }

    @Test("an agent that is killed in the middle leaves nothing undone and nothing done twice")
    func killed() async throws {
        let (site, first) = try await RollbackSite.frozen()
        var agent = first
        defer { agent.stop(15) }
        try site.change(40_000)
        try await site.stack.drained(site.session)
        let writer = try RollbackWriter(site, seed: 0)
        async let report = writer.write()
        async let refusal = site.rollBack()
        var kills = 0
        for share in [1, 10_000, 25_000] {
            try await eventually(within: .seconds(60), "the next part is written") {
                try site.session.value(
                    "SELECT keys_done > \(share) OR finished_at IS NOT NULL FROM reactions.write_back") == "t"
            }
            agent.stop(9)
            if try site.session.value("SELECT finished_at IS NULL FROM reactions.write_back") == "t" { kills += 1 }
            agent = try site.stack.startAgent()
        }
        let error = try await refusal
        #expect(error == nil, "\(String(describing: error)) \(site.stack.agentLog().suffix(2000))")
        writer.stop()
        #expect(Set(await report.failures.keys).isSubset(of: ["40001"]))
        #expect(kills >= 2)
        #expect(try site.session.value("SELECT term FROM reactions.write_back") == "\(kills + 1)")
        #expect(try site.phase() == "switch_reads")
        try await site.expectAgreement()
    }

    @Test(
        "without an agent nothing is begun; a rollback that is cancelled or deserted is withdrawn, and ends well later")
    func withdrawn() async throws {
        let (site, agent) = try await RollbackSite.frozen()
        try site.change(500)
        try await site.stack.drained(site.session)
        agent.stop(15)
        try await eventually("no agent leads") { try site.session.value("SELECT reactions._agent_pid()") == nil }
        #expect(try await site.rollBack()?.sqlstate == "55000")
        #expect(try site.session.value("SELECT count(*) FROM reactions.write_back") == "0")

        // ClickHouse's agent leads and then stops: the request waits, and is cancelled.
        let second = try site.stack.startAgent()
        try await eventually("an agent leads") { try site.session.value("SELECT reactions._agent_pid()") != nil }
        second.signal(SIGSTOP)
        async let cancelled = site.rollBack()
        try await eventually("it is asked for") {
            try site.session.value("SELECT count(*) FROM reactions.write_back") == "1"
        }
        let other = try await site.rollBack()
        #expect(other?.sqlstate == "55006", "one at a time")
        // Once: a second cancel would end the call that withdraws it.
        try await eventually("it is cancelled while it waits") {
            try site.session.value(
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'CALL%' AND datname = current_database() AND wait_event = 'PgSleep'"
            ) == "1"
        }
        try await eventually("it is withdrawn") {
            try site.session.value("SELECT state FROM reactions.write_back") == "withdrawn"
        }
        let refusal = try await cancelled
        #expect(refusal?.sqlstate == "57014")
        #expect(refusal?.message.contains("withdrawn") == true)

        // Whoever asked is gone.
        async let deserted = site.rollBack()
        try await eventually("it is asked for") {
            try site.session.value("SELECT count(*) FROM reactions.write_back") == "2"
        }
        try site.session.execute(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL%' AND datname = current_database() AND pid <> pg_backend_pid();
            UPDATE reactions.write_back SET awaited_at = awaited_at - interval '1 minute' WHERE finished_at IS NULL
            """)
        #expect(try await deserted != nil)
        second.signal(SIGCONT)
        try await eventually("it is withdrawn") {
            try site.session.value("SELECT count(*) FROM reactions.write_back WHERE state = 'withdrawn'") == "2"
        }
        #expect(try site.phase() == "stop_writes")
        #expect(try await site.rollBack() == nil)
        second.stop(15)
        #expect(try site.phase() == "switch_reads")
    }

    @Test("what the table refuses is listed and left in ClickHouse; who is gone is gone")
    func refused() async throws {
        let (site, agent) = try await RollbackSite.frozen()
        defer { agent.stop(15) }
        let epoch = try site.session.value("SELECT epoch FROM reactions.entity_type")
        // Persons whom the table does not know.
        try site.session.execute("SELECT reactions.set_flags(u, 1, 5) FROM generate_series(9001, 9003) u")
        try await site.stack.drained(site.session)
        // And one in the outbox's last events.
        try site.session.execute("SELECT reactions.react(9004, 1, 'Cry')")
        let before = try site.rows().count
        #expect(try await site.rollBack() == nil)
        #expect(try site.rows().count == before)
        let refused = try site.session.query(
            "SELECT user_id, entity_id, flags, problem LIKE '%foreign key%' FROM reactions.write_back_refused ORDER BY 1"
        )
        #expect(refused == (9001...9003).map { ["\($0)", "1", "5", "t"] } + [["9004", "1", "8", "t"]])
        #expect(try site.session.value("SELECT epoch FROM reactions.entity_type") != epoch)
        // The table decides.
        #expect(try site.session.value("SELECT reactions.flags(9001, 1)") == "0")
        try await site.expectAgreement(without: 7)

        // A match knows them, and counts them as no difference; nothing of them is repaired.
        func matched(_ arguments: String...) async throws -> String {
            try await site.stack.drained(site.session)
            return try await site.stack.reactiond("match", arguments)
        }
        let output = try await matched("--repair")
        #expect(output.contains("0 differ (4 policy)"), "\(output)")
        let differences = try site.session.query(
            "SELECT class, user_id, in_table, in_clickhouse, repaired_at FROM reactions.differences ORDER BY user_id")
        #expect(differences.map { $0[0] } == Array(repeating: "policy", count: 4), "\(differences)")
        #expect(
            try site.session.query("SELECT ok FROM reactions.readiness('Image') WHERE condition = 'match'") == [["t"]])
    }

    @Test("while ClickHouse is away a rollback waits and says so, and writers go on")
    func withoutClickHouse() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let (site, agent) = try await RollbackSite.frozen(try await Stack.make(clickHouse: clickHouse))
        defer { agent.stop(15) }
        try site.change(500)
        try await site.stack.drained(site.session)
        clickHouse.kill()
        async let refusal = site.rollBack()
        try await eventually("it says so") {
            try site.session.value("SELECT error IS NOT NULL FROM reactions.write_back") == "t"
        }
        try site.session.execute("SELECT reactions.react(3, 99, 'Cry')")
        #expect(try site.phase() == "stop_writes")
        try await clickHouse.restart()
        let error = try await refusal
        #expect(error == nil, "\(String(describing: error))")
        #expect(try site.phase() == "switch_reads")
        #expect(try site.session.value("SELECT error FROM reactions.write_back") == nil)
        try await site.expectAgreement()
    }

    @Test("of two types one is rolled back after the other, and the second one says for which it waits")
    func inTurn() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let (site, agent) = try await RollbackSite.frozen(try await Stack.make(clickHouse: clickHouse))
        defer { agent.stop(15) }
        try site.session.execute(
            """
            CREATE TABLE post (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
            SELECT reactions.attach('post', 'Post', 'u', 'e', 'k', phase => 'switch_reads')
            """)
        try site.session.execute("CALL reactions.advance('Post', force => true)")
        try site.session.execute(
            "SELECT reactions.react(1, 1, 'Like', 'Post'), reactions.set_flags(3, 990, 5, 'Image')")
        try await site.stack.drained(site.session)
        clickHouse.kill()
        async let image = site.rollBack()
        try await eventually("it says what it waits for") {
            try site.session.value("SELECT error IS NOT NULL FROM reactions.write_backs") == "t"
        }
        let post = try site.stack.start("rollback", ["Post"], log: "post.log")
        try await eventually("the command says so") {
            try String(contentsOfFile: site.stack.path("post.log"), encoding: .utf8)
                .contains("the rollback of entity type \"Image\" comes first")
        }
        let status = try await site.stack.reactiond("status")
        #expect(status.contains("rolling back: the one of Image comes first"), "\(status)")
        #expect(status.contains("rolling back: tried again: "), "\(status)")
        try await clickHouse.restart()
        let error = try await image
        #expect(error == nil, "\(String(describing: error))")
        try await eventually("the other one, too") { !post.isRunning }
        let phases = try site.session.query("SELECT DISTINCT phase FROM reactions.status()")
        #expect(phases == [["switch_reads"]])
        #expect(try site.session.value("SELECT count(*) FROM post") == "1")
    }

    @Test("what a ClickHouse has lost at a restart, before the mirror has looked, comes into the table from the outbox")
    func lostByClickHouse() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let (site, agent) = try await RollbackSite.frozen(try await Stack.make(clickHouse: clickHouse))
        defer { agent.stop(15) }
        try site.session.execute("SELECT reactions.set_flags(3, 990, 5), reactions.set_flags(3, 991, 2)")
        try await site.stack.drained(site.session)
        try await clickHouse.restart()
        for table in ["entityMetricEvents", "reactionsByEntity", "reactionDeltas"] {
            _ = try site.stack.clickHouseRows("ALTER TABLE {db}.\(table) DELETE WHERE entityId IN (990, 991)")
        }
        try await eventually("the rows are gone") {
            try site.stack.clickHouseRows("SELECT count() FROM {db}.entityMetricEvents WHERE entityId IN (990, 991)")
                == [["0"]]
        }
        let error = try await site.rollBack()
        #expect(error == nil, "\(String(describing: error))")
        #expect(try site.rows().filter { ["990", "991"].contains($0[1]) }.count == 3)
    }

    @Test("a crash of PostgreSQL in the middle of a rollback loses nothing")
    func crash() async throws {
        let postgres = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"])
        let (site, agent) = try await RollbackSite.frozen(try await Stack.make(postgres: postgres))
        defer { agent.stop(15) }
        try site.change(20_000)
        try await site.stack.drained(site.session)
        async let crashed = site.rollBack()
        try await eventually(within: .seconds(60), "something is written") {
            try site.session.value("SELECT keys_done > 2000 FROM reactions.write_back") == "t"
        }
        postgres.stop(SIGQUIT)
        #expect(try await crashed != nil)
        try await postgres.start()
        let again = RollbackSite(stack: site.stack, session: try site.stack.connect())
        #expect(try again.session.value("SELECT finished_at IS NULL FROM reactions.write_back") == "t")
        try again.session.execute("SELECT reactions.set_flags(1, 10000, 9)")
        // Finished within the time that nobody need say that he waits, or withdrawn after it.
        try await eventually(within: .seconds(60), "it is over") {
            try again.session.value("SELECT finished_at IS NOT NULL FROM reactions.write_back") == "t"
        }
        if try again.phase() == "stop_writes" {
            #expect(try again.session.value("SELECT state FROM reactions.write_back") == "withdrawn")
            let error = try await again.rollBack()
            #expect(error == nil, "\(String(describing: error))")
        }
        #expect(try again.phase() == "switch_reads")
        try await again.expectAgreement()
    }

    @Test("a standby that is promoted in the middle of a rollback ends it, or leaves it to the next one")
    func promotedStandby() async throws {
        let primary = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"])
        let (site, first) = try await RollbackSite.frozen(try await Stack.make(postgres: primary))
        var agent = first
        defer { agent.stop(15) }
        try site.change(20_000)
        try await site.stack.drained(site.session)
        let replica = try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"]) { path in
            try await PostgresServer.tool(
                "pg_basebackup",
                [
                    "--pgdata", path, "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname",
                    primary.conninfo(),
                ])
        }
        let standby = try replica.connect(database: site.stack.database)
        async let failed = site.rollBack()
        try await eventually(within: .seconds(60), "the standby has some of it") {
            try standby.value("SELECT keys_done > 2000 FROM reactions.write_back") == "t"
        }
        primary.stop(SIGQUIT)
        #expect(try await failed != nil)
        agent.stop(SIGKILL)
        try standby.execute("SELECT pg_promote()")
        let moved = try site.stack.moved(to: replica)
        let again = RollbackSite(stack: moved, session: try moved.connect())
        #expect(try again.session.value("SELECT finished_at IS NULL FROM reactions.write_back") == "t")
        #expect(try again.phase() == "stop_writes")
        try again.session.execute("SELECT reactions.set_flags(1, 10000, 9)")
        agent = try moved.startAgent()
        // Who asked for it is gone: it ends in time, or is withdrawn.
        try await eventually(within: .seconds(60), "it is over") {
            try again.session.value("SELECT finished_at IS NOT NULL FROM reactions.write_back") == "t"
        }
        if try again.phase() == "stop_writes" {
            #expect(try again.session.value("SELECT state FROM reactions.write_back") == "withdrawn")
            let error = try await again.rollBack()
            #expect(error == nil, "\(String(describing: error))")
        }
        #expect(try again.phase() == "switch_reads")
        try await again.expectAgreement()
    }
}
