import Foundation
import TestSupport
import Testing

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
        #expect(done == [["done", "t", "t", "t", "reactiond rollback", nil]])
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
        // Written again, a reaction is none of them any more, and counts once.
        try site.session.execute("INSERT INTO person VALUES (9001); SELECT reactions.set_flags(9001, 1, 5)")
        let after = try await matched()
        #expect(after.contains("0 differ (3 policy)"), "\(after)")
        // ClickHouse decides again: it has the others, whatever a map said while the table did.
        #expect(try site.session.value("SELECT reactions.flags(9002, 1)") == "0")
        try site.session.execute("CALL reactions.advance('Image', force => true)")
        #expect(try site.session.value("SELECT reactions.flags(9002, 1)") == "5")
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
}
