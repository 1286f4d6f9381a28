import TestSupport
import Testing

@Suite("Matches by itself", .serialized) struct AutomaticMatchTests {
    /// A match that has failed, be it that ClickHouse was late once, is tried again after ten minutes.
    private static let patient = ["--set", "clickhouse.timeout=60s"]

    @Test("a trigger that was disabled and enabled again is noticed, and what was lost meanwhile is found and told")
    func lostDeletes() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 5_000)
        let port = try FreePort.next()
        let agent = try site.stack.startAgent(
            [
                "--set", "match.watch_interval=100ms", "--set", "agent.http_port=\(port)",
            ] + Self.patient)
        defer { agent.stop(15) }
        try await site.site.sealed()
        // The first full match comes by itself.
        try await eventually {
            try site.value("SELECT count(*) FROM reactions.match_run WHERE finished_at IS NOT NULL") == "1"
        }
        #expect(try site.value("SELECT ok FROM reactions.readiness('Image') WHERE condition = 'match'") == "t")
        #expect(try site.value("SELECT is_capture_in_doubt FROM reactions.match_status") == "f")

        try site.unseen("DELETE FROM \"ImageReaction\" WHERE \"userId\" = 9")
        let lost = try site.stack.clickHouseRows(
            "SELECT uniq(entityId) FROM {db}.entityMetricEvents WHERE userId = 9")[0][0]
        try await eventually {
            try site.value("SELECT classes ->> 'phantom' FROM reactions.match_status") == lost
        }
        #expect(
            try site.value("SELECT match_wanted LIKE '%capture triggers were altered%' FROM reactions._mirror") == "t")
        let failing = try site.session.query("SELECT \"check\" FROM reactions.doctor() WHERE NOT ok ORDER BY 1")
        #expect(failing.map { $0[0] } == ["capture_altered_Image", "match", "match_Image"])
        #expect(site.stack.agentLog().contains("capture was altered"))
        try await eventually { site.stack.agentLog().contains("table and ClickHouse differ") }
        try await eventually {
            let text = try HTTP.request("http://127.0.0.1:\(port)/metrics").text
            return text.contains("reactiond_match_differences{type=\"Image\",class=\"phantom\"} \(lost).0")
                && text.contains("reactiond_capture_altered{type=\"Image\"} 1.0")
        }

        // Clean by a match of everything: nothing is wanted any more. The agent's own match may be in the way.
        try await eventually { await site.match("--repair").hasEndedWell }
        #expect(try site.value("SELECT match_wanted FROM reactions._mirror") == nil)
        #expect(
            try site.value(
                "SELECT bool_and(ok) FROM reactions.doctor() WHERE \"check\" LIKE '%match%' OR \"check\" LIKE 'capture%'"
            ) == "t")
        try await site.site.expectAgreement()
    }

    @Test("a trigger that is missing or not enabled for replicas, and a table that could not be attached, are noticed")
    func problems() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 1_000)
        let agent = try site.stack.startAgent(["--set", "match.watch_interval=100ms"] + Self.patient)
        defer { agent.stop(15) }
        try await site.site.sealed()
        func notices(_ change: String, _ problem: String?) async throws {
            let before = try site.value("SELECT altered_at FROM reactions._capture_seen")
            try site.session.execute(change)
            try await eventually(change) {
                try site.value("SELECT altered_at FROM reactions._capture_seen") != before
            }
            #expect(try site.value("SELECT capture_problem FROM reactions.match_status") == problem)
            // The match that this orders is clean, and so nothing is wanted; a problem that lasts is still told.
            try await eventually { try site.value("SELECT match_wanted FROM reactions._mirror") == nil }
            #expect(
                try site.value("SELECT is_capture_in_doubt FROM reactions.match_status") == (problem == nil ? "f" : "t")
            )
        }
        let table = "ALTER TABLE \"ImageReaction\""
        try await notices("\(table) ENABLE TRIGGER reactions_capture_3_delete", "5 of 6 capture triggers enabled")
        try await notices("\(table) ENABLE ALWAYS TRIGGER reactions_capture_3_delete", nil)
        try await notices(
            "DROP INDEX \"ImageReaction_key\"",
            "table public.\"ImageReaction\" has no unique index over (userId, imageId, reaction)")
        try await notices(
            "CREATE UNIQUE INDEX \"ImageReaction_key\" ON \"ImageReaction\" (\"imageId\", \"userId\", reaction)", nil)
        try await notices(
            "CREATE TABLE parent (LIKE \"ImageReaction\"); \(table) INHERIT parent",
            "table public.\"ImageReaction\" has a parent or children by inheritance")
        try await notices("\(table) NO INHERIT parent", nil)
        // What is rolled back has not been.
        let seen = try site.value("SELECT altered_at FROM reactions._capture_seen")
        try site.session.execute("BEGIN; \(table) DISABLE TRIGGER USER; ROLLBACK; SELECT reactions._watch_capture()")
        #expect(try site.value("SELECT altered_at FROM reactions._capture_seen") == seen)
    }

    @Test(
        "while a match hangs the outbox's age and the capture triggers are watched; one that failed is told and tried later"
    )
    func hanging() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let site = try MatchSite.make(try await Stack.make(clickHouse: clickHouse), rows: 1_000)
        let port = try FreePort.next()
        let agent = try site.stack.startAgent([
            "--set", "match.watch_interval=100ms", "--set", "clickhouse.timeout=60s", "--set",
            "agent.http_port=\(port)",
        ])
        defer { agent.stop(9) }
        func age() throws -> Double? {
            try HTTP.request("http://127.0.0.1:\(port)/metrics").text.split(separator: "\n")
                .first { $0.hasPrefix("reactiond_outbox_oldest_event_seconds ") }
                .flatMap { Double($0.split(separator: " ")[1]) }
        }
        func runs(_ condition: String) throws -> String? {
            try site.value("SELECT count(*) FROM reactions.match_run WHERE \(condition)")
        }
        try await site.site.sealed()
        try await eventually { try runs("finished_at IS NOT NULL") == "1" }
        try await site.stack.drained(site.session)
        try await eventually { try age() == 0 }

        clickHouse.pause()
        try site.session.execute("UPDATE reactions._mirror SET match_wanted = 'by hand'")
        // Its row is there before ClickHouse is asked for anything.
        try await eventually { try runs("finished_at IS NULL AND error IS NULL") == "1" }
        try MatchSite.write(site.session, seed: 1)
        try await eventually { try age() ?? 0 > 0.5 }
        try site.unseen("SELECT 1")
        try await eventually {
            try site.value("SELECT match_wanted LIKE '%capture triggers were altered%' FROM reactions._mirror") == "t"
        }
        #expect(try runs("finished_at IS NULL AND error IS NULL") == "1")

        // It fails; what was wished for in other words meanwhile is tried once, and so is every later wish.
        clickHouse.resume()
        clickHouse.kill()
        for wish in 1...3 {
            try await eventually("attempt \(wish)") { try runs("error IS NOT NULL") == "\(wish + 1)" }
            try site.session.execute("UPDATE reactions._mirror SET match_wanted = 'again \(wish)'")
        }
        try await eventually("the last attempt") { try runs("error IS NOT NULL") == "5" }
        try await eventually { site.stack.agentLog().split(separator: "match failed").count == 6 }
        #expect(try runs("finished_at IS NULL") == "5")
    }

    @Test("rows that capture did not see are found among the recent ones, without its triggers")
    func recent() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 20_000)
        let agent = try site.stack.startAgent(
            [
                "--set", "match.recent_interval=1s", "--set", "match.watch_interval=1h",
            ] + Self.patient)
        defer { agent.stop(15) }
        try await site.site.sealed()
        func runs() throws -> Int {
            Int(
                try site.value(
                    "SELECT count(*) FROM reactions.match_run WHERE scope = 'recent' AND finished_at IS NOT NULL") ?? ""
            ) ?? 0
        }
        try await eventually { try runs() > 1 }
        for seed in 0..<5 { try MatchSite.write(site.session, seed: seed) }
        let before = try runs()
        try await eventually { try runs() > before + 1 }
        // What was written was looked at, and no more: a small part of the table.
        let looked =
            Int(try site.value("SELECT max(compared) FROM reactions.match_run WHERE scope = 'recent'") ?? "") ?? 0
        #expect(looked >= 20 && looked < 2_000, "\(looked)")
        #expect(try site.value("SELECT differences FROM reactions.match_status") == "0")
        try site.unseen(
            """
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction) VALUES (301, 1, 'Like');
            UPDATE "ImageReaction" SET reaction = 'Cry' WHERE id = (SELECT min(id) FROM "ImageReaction" WHERE reaction = 'Heart')
            """)
        try await eventually {
            try site.value("SELECT differences FROM reactions.match_status") == "2"
        }
        #expect(
            try site.value("SELECT count(*) FROM reactions.differences WHERE user_id = 301 AND class = 'missing'")
                == "1")
        // The next one does not look at them again, but they are still told.
        let after = try runs()
        try await eventually { try runs() > after + 1 }
        #expect(try site.value("SELECT differences FROM reactions.match_status") == "2")
    }

    @Test("what is written through a parent that the table was made a partition of is found and told")
    func partition() async throws {
        let site = try MatchSite.make(try await Stack.make(), rows: 1_000)
        let agent = try site.stack.startAgent(["--set", "match.watch_interval=100ms"] + Self.patient)
        defer { agent.stop(15) }
        try await site.site.sealed()
        try site.session.execute(
            """
            CREATE TABLE parent (LIKE "ImageReaction" INCLUDING DEFAULTS) PARTITION BY RANGE (id);
            ALTER TABLE parent ATTACH PARTITION "ImageReaction" FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
            INSERT INTO parent ("userId", "imageId", reaction) VALUES (301, 1, 'Like')
            """)
        try await eventually {
            try site.value("SELECT capture_problem FROM reactions.match_status")?.contains("is a partition") == true
        }
        try await eventually {
            try site.differences().contains(["missing", "301", "1", "1", "0"])
        }
        #expect(
            try site.session.query("SELECT \"check\" FROM reactions.doctor() WHERE NOT ok ORDER BY 1").compactMap {
                $0[0]
            }
            .contains("table_Image"))
        #expect(try site.value("SELECT ok FROM reactions.readiness('Image') WHERE condition = 'table'") == "f")
    }
}
