import TestSupport
import Testing

@Suite("Backfill in trouble", .serialized) struct BackfillTroubleTests {
    @Test("a table that is rewritten is read anew, and one that is truncated under new versions")
    func rewrittenAndTruncated() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 60_000)
        try site.attach()
        // So slowly that it does not come to the end before the table is rewritten.
        let arguments = ["--set", "backfill.rows_per_second=4000", "--set", "backfill.sessions=1"]
        let agent = try site.stack.startAgent(arguments)
        defer { agent.stop(15) }
        func readSome() async throws {
            try await eventually("something is read") {
                try site.session.value("SELECT blocks_read > 0 AND state = 'reading' FROM reactions.backfill") == "t"
            }
        }
        try await readSome()
        let first = try site.session.query("SELECT version, number FROM reactions._backfill")
        try site.write(seed: 1)
        try site.session.execute("VACUUM FULL \"ImageReaction\"")
        try site.write(seed: 2)
        try await eventually { try site.session.query("SELECT version, number FROM reactions._backfill") != first }
        #expect(
            try site.session.value("SELECT version FROM reactions._backfill") == first[0][0], "the rows are the same")
        try site.session.execute("UPDATE reactions._backfill SET range_blocks = 4")
        try await readSome()
        try site.write(seed: 3, truncates: true)
        for seed in 4..<60 { try site.write(seed: seed) }
        #expect(try site.session.value("SELECT count(*) FROM reactions._backfill") == "2")
        try await site.sealed()
        try await site.expectAgreement()
    }

    @Test("a row of an unknown kind is told to the operator, and read when the kind is added")
    func unknownKind() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute(
            """
            CREATE TABLE r (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
            INSERT INTO r SELECT g, g, CASE WHEN g = 77 THEN 'Rage' ELSE 'Like' END FROM generate_series(1, 100) g;
            SELECT reactions.attach('r', 'Image', 'u', 'e', 'k')
            """)
        let agent = try stack.startAgent(["--set", "mirror.longest_backoff=500ms"])
        defer { agent.stop(15) }
        try await eventually { try session.value("SELECT error FROM reactions.backfill")?.contains("Rage") == true }
        #expect(
            try session.value("SELECT detail FROM reactions.doctor() WHERE \"check\" = 'backfill_Image'")?.contains(
                "Rage") == true)
        try session.execute("SELECT reactions.add_kind('Image', 'Rage')")
        try await eventually {
            try session.value("SELECT state FROM reactions.backfill") == "sealed"
        }
        let kinds = try stack.clickHouseRows(
            "SELECT metricType, count() FROM {db}.entityMetricEvents GROUP BY metricType ORDER BY metricType")
        #expect(kinds == [["ReactionLike", "99"], ["ReactionRage", "1"]])
        #expect(try session.value("SELECT error FROM reactions.backfill") == nil)
    }

    @Test(
        "a column that is gone is told to the operator; writers are refused, and the table is read when the column is back"
    )
    func goneColumn() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute(
            """
            CREATE TABLE r (u bigint, e bigint, k text, PRIMARY KEY (u, e, k));
            INSERT INTO r SELECT g, g, 'Like' FROM generate_series(1, 100) g;
            SELECT reactions.attach('r', 'Image', 'u', 'e', 'k');
            ALTER TABLE r RENAME k TO kind
            """)
        let agent = try stack.startAgent(["--set", "mirror.longest_backoff=500ms"])
        defer { agent.stop(15) }
        try await eventually { try session.value("SELECT error FROM reactions.backfill") != nil }
        #expect(try session.value("SELECT state FROM reactions.backfill") == "reading")
        #expect(try session.value("SELECT ok FROM reactions.doctor() WHERE \"check\" = 'table_Image'") == "f")
        let refused = #expect(throws: PostgresError.self) {
            try session.execute("INSERT INTO r VALUES (101, 101, 'Cry')")
        }
        #expect(refused?.sqlstate == "42703")
        try session.execute("ALTER TABLE r RENAME kind TO k; INSERT INTO r VALUES (101, 101, 'Cry')")
        try await eventually { try session.value("SELECT state FROM reactions.backfill") == "sealed" }
        try await stack.drained(session)
        let kinds = try stack.clickHouseRows(
            "SELECT metricType, sum(metricValue) FROM {db}.entityMetricEvents GROUP BY metricType ORDER BY metricType")
        #expect(kinds == [["ReactionCry", "1"], ["ReactionLike", "100"]])
    }

    /// A ClickHouse of the test's own, of which the agent has read a part.
    private func partlyRead() async throws -> (BackfillSite, ClickHouseServer, ServerProcess) {
        let clickHouse = try await ClickHouseServer.start()
        let site = try BackfillSite.make(try await Stack.make(clickHouse: clickHouse), rows: 60_000)
        try site.attach()
        let agent = try site.stack.startAgent([
            "--set", "backfill.rows_per_second=8000", "--set", "backfill.sessions=1", "--set",
            "mirror.longest_backoff=500ms",
        ])
        try await eventually("something is read") {
            try site.session.value("SELECT blocks_read > 0 AND state = 'reading' FROM reactions.backfill") == "t"
        }
        return (site, clickHouse, agent)
    }

    @Test("a ClickHouse that dies while the table is read is told to the operator, and gets the rest when it is back")
    func clickHouseDies() async throws {
        let (site, clickHouse, agent) = try await partlyRead()
        defer { agent.stop(15) }
        clickHouse.kill()
        for seed in 0..<20 { try site.write(seed: seed) }
        try await eventually("the operator is told") {
            try site.session.value("SELECT error IS NOT NULL FROM reactions.backfill") == "t"
        }
        #expect(try site.session.value("SELECT state FROM reactions.backfill") == "reading")
        try await clickHouse.restart()
        for seed in 20..<40 { try site.write(seed: seed) }
        try await site.sealed()
        try await site.expectAgreement()
        #expect(try site.session.value("SELECT error FROM reactions.backfill") == nil)
    }

    @Test("a ClickHouse that hangs while the table is read, and again while it is sealed, has nothing twice")
    func clickHouseHangs() async throws {
        let (site, clickHouse, agent) = try await partlyRead()
        defer { agent.stop(15) }
        clickHouse.pause()
        for seed in 0..<10 { try site.write(seed: seed) }
        try await eventually("a request has timed out") {
            try site.session.value("SELECT error IS NOT NULL FROM reactions.backfill") == "t"
        }
        clickHouse.resume()
        try await eventually("it seals") {
            ["sealing", "sealed"].contains(try site.session.value("SELECT state FROM reactions.backfill"))
        }
        clickHouse.pause()
        for seed in 10..<20 { try site.write(seed: seed) }
        clickHouse.resume()
        try await site.sealed()
        try await site.expectAgreement()
    }

    @Test("rewrites of every kind while the table is read: CLUSTER, a change of a column's type")
    func rewritten() async throws {
        let (site, _, agent) = try await partlyRead()
        defer { agent.stop(15) }
        try site.session.execute(#"CLUSTER "ImageReaction" USING "ImageReaction_key""#)
        for seed in 0..<10 { try site.write(seed: seed) }
        try site.session.execute(#"ALTER TABLE "ImageReaction" ALTER note TYPE varchar(1000) USING note || '!'"#)
        for seed in 10..<20 { try site.write(seed: seed) }
        try site.session.execute(#"ALTER TABLE "ImageReaction" ALTER id TYPE bigint"#)
        for seed in 20..<30 { try site.write(seed: seed) }
        try await site.sealed()
        try await site.expectAgreement()
    }
}
