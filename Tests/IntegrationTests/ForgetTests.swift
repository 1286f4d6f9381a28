import Foundation
import TestSupport
import Testing

/// Users and entities that are gone, and users who are forgotten.
@Suite("Forgetting") struct ForgetTests {
    /// Rows of the outbox, folded: a reaction is there if its newest event set it and neither user nor entity is gone since.
    private func expected(_ session: PostgresConnection) throws -> [[String]] {
        try session.query(
            """
            SELECT user_id, entity_id FROM (
                SELECT DISTINCT ON (user_id, entity_id) user_id, entity_id, set_mask, version FROM reactions._outbox
                WHERE scope = 'r' ORDER BY user_id, entity_id, version DESC) r
            WHERE set_mask <> 0 AND NOT EXISTS (
                SELECT FROM reactions._outbox o WHERE o.version > r.version
                    AND (o.scope = 'u' AND o.user_id = r.user_id OR o.scope = 'e' AND o.entity_id = r.entity_id))
            ORDER BY 1, 2
            """
        ).map { $0.map { $0 ?? "" } }
    }

    private func expectDeltasAgree(_ stack: Stack, _ comment: Comment? = nil) throws {
        let groups =
            "GROUP BY entityType, entityId, metricType HAVING total != 0 ORDER BY toString(entityType), entityId, toString(metricType)"
        let deltas = try stack.clickHouseRows(
            "SELECT entityType, entityId, metricType, sum(delta) AS total FROM {db}.reactionDeltas \(groups)")
        let changes = try stack.clickHouseRows(
            "SELECT entityType, entityId, metricType, sum(metricValue) AS total FROM {db}.entityMetricEvents \(groups)")
        #expect(deltas == changes, comment)
    }

    private func rows(of user: Int, _ stack: Stack) throws -> Int {
        try ["entityMetricEvents", "reactionsByEntity"].reduce(0) { total, table in
            let found = try stack.clickHouseRows("SELECT count() FROM {db}.\(table) WHERE userId = \(user)")
            return total + (Int(found.first?.first ?? "") ?? -1_000_000)
        }
    }

    @Test("users and entities that are gone are gone everywhere, also when the agent is killed again and again")
    func removals() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        let users = 120
        let entities = 12
        let ask = "SELECT u, e FROM generate_series(1, \(users)) u, generate_series(1, \(entities)) e"
        var agent = try stack.startAgent()
        for round in 0..<8 {
            try session.execute(
                """
                SELECT reactions.react(u, e, 'Like') FROM generate_series(1, \(users)) u, generate_series(1, 6) e
                WHERE (u * 7 + e * 5 + \(round)) % 3 = 0;
                SELECT reactions.react(u, e, 'Like') FROM generate_series(1, \(users)) u, generate_series(7, \(entities)) e
                WHERE (u * 5 + e + \(round)) % 4 = 0;
                """)
            // Maps of every user, some of them made while ClickHouse knows nothing of what follows.
            _ = try session.query("SELECT reactions.flags(u, e) FROM (\(ask)) a")
            try session.execute(
                """
                BEGIN;
                SELECT reactions._fence_out(NULL);
                SELECT reactions._write_removal(1::smallint, u, NULL) FROM generate_series(\(round) + 1, \(users), 10) u;
                SELECT reactions._write_removal(1::smallint, NULL, \(round % 5 + 1)), reactions._write_removal(1::smallint, NULL, 999);
                COMMIT;
                SELECT reactions.react(\(round) + 1, 3, 'Like'), reactions.react(\(round) + 11, \(round % 5 + 1), 'Like')
                """)
            _ = try session.query("SELECT reactions.flags(u, e) FROM (\(ask)) a WHERE u % 4 = \(round % 4)")
            // At any moment between forming the batch and finishing it: the sleep is what is tested.
            try await Task.sleep(for: .milliseconds(Int.random(in: 0...150)))
            agent.stop(9)
            agent = try stack.startAgent()
        }
        defer { agent.stop(15) }
        try await stack.drained(session)

        let expected = try expected(session)
        #expect(expected.count > 100)
        let state = try stack.clickHouseRows(
            """
            SELECT userId, entityId FROM {db}.entityMetricEvents GROUP BY userId, entityId
            HAVING argMax(metricValue, version) > 0 ORDER BY userId, entityId
            """)
        #expect(state == expected)
        let sums = try stack.clickHouseRows(
            """
            SELECT userId, entityId, sum(metricValue) AS total FROM {db}.entityMetricEvents GROUP BY userId, entityId
            HAVING total != 0 ORDER BY userId, entityId
            """)
        #expect(sums == expected.map { $0 + ["1"] })
        try expectDeltasAgree(stack)
        for attempt in ["by what Redis has", "by what ClickHouse has"] {
            let read = try session.query("SELECT u, e FROM (\(ask)) a WHERE reactions.flags(u, e) <> 0 ORDER BY 1, 2")
            #expect(read.map { $0.map { $0 ?? "" } } == expected, "\(attempt)")
            try session.execute("SELECT reactions.invalidate('Image', u) FROM generate_series(1, \(users)) u")
        }
    }

    @Test("ten thousand users are gone by a few statements")
    func manyUsers() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute(
            """
            SELECT reactions.add_entity_type('Image');
            SET reactions.max_keys_per_transaction = 1000
            """)
        for start in stride(from: 1, through: 10_000, by: 1_000) {
            try session.execute(
                "SELECT reactions.react(u, u % 10, 'Like') FROM generate_series(\(start), \(start + 999)) u")
        }
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try await stack.drained(session)
        try session.execute(
            """
            BEGIN;
            SELECT reactions._fence_out(NULL);
            SELECT reactions._write_removal(1::smallint, u, NULL) FROM generate_series(1, 10000) u;
            COMMIT
            """)
        try await stack.drained(session)
        // A thousand users by each statement.
        #expect(
            try stack.clickHouseRows("SELECT uniqExact(batch, part) FROM {db}.entityMetricEvents WHERE metricValue < 0")
                == [["10"]])
        #expect(
            try stack.clickHouseRows("SELECT count(), sum(metricValue) FROM {db}.entityMetricEvents") == [
                ["20000", "0"]
            ]
        )
        try expectDeltasAgree(stack)
    }

    /// As long as `clickHouse` keeps its rows: a restart of it, a backfill and new reactions bring nothing back.
    @Test("a user who is forgotten leaves nothing behind, in any phase, and may come back")
    func forgetUser() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let stack = try await Stack.make(clickHouse: clickHouse)
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        try session.execute(
            """
            SELECT reactions.add_entity_type('Post');
            CREATE TABLE frozen (u bigint NOT NULL, e bigint NOT NULL, k text NOT NULL, UNIQUE (u, e, k));
            SELECT reactions.attach('frozen', 'Frozen', 'u', 'e', 'k')
            """)
        func write(_ users: String) throws {
            try session.execute(
                """
                INSERT INTO "ImageReaction" ("imageId", "userId", reaction) SELECT e, u, 'Like' FROM \(users) u, generate_series(1, 9) e;
                SELECT reactions.react(u, e, 'Heart', 'Post') FROM \(users) u, generate_series(1, 9) e;
                """)
        }
        try write("generate_series(1, 5)")
        try session.execute("INSERT INTO frozen SELECT u, 7, 'Cry' FROM generate_series(1, 5) u")
        for _ in 0..<3 { try session.execute("CALL reactions.advance('Frozen', true)") }
        try session.execute("SELECT reactions.react(u, 8, 'Like', 'Frozen') FROM generate_series(1, 5) u")

        // What the tests below would wait for, soon: batches are not kept.
        let agent = try stack.startAgent(["--set", "mirror.batch_retention=1s"])
        defer { agent.stop(15) }
        try await stack.drained(session)
        let read = """
            SELECT u, (SELECT sum(reactions.flags(u, e, t)) FROM generate_series(1, 9) e,
                unnest(ARRAY['Image', 'Post', 'Frozen']) t) FROM generate_series(1, 5) u
            """
        #expect(try session.query(read).map { $0[1] } == Array(repeating: "36", count: 5))
        #expect(try rows(of: 3, stack) == 2 * (9 + 9 + 2))

        let told = try await stack.reactiond("forget", "3")
        #expect(told.contains("Image: 9 rows of the table, 36 rows in ClickHouse"))
        #expect(told.contains("Frozen: 1 rows of the table, 8 rows in ClickHouse"))
        #expect(told.contains("Post: 36 rows in ClickHouse"))
        #expect(try rows(of: 3, stack) == 0)
        #expect(try session.value("SELECT count(*) FROM reactions._outbox WHERE user_id = 3") == "0")
        #expect(try session.value("SELECT count(*) FROM \"ImageReaction\" WHERE \"userId\" = 3") == "0")
        #expect(try session.value("SELECT count(*) FROM frozen WHERE u = 3") == "0")
        #expect(try session.value("SELECT state FROM reactions.forgotten_user") == "erased")
        let redis = try stack.redis.connect()
        #expect(try redis.command("EXISTS", stack.prefix + "reactions:3") == .integer(0))
        try expectDeltasAgree(stack)

        // A restart, after which the agent looks for what it had sent.
        try await clickHouse.restart()
        try write("generate_series(6, 6)")
        try await stack.drained(session)
        #expect(try rows(of: 3, stack) == 0)

        try session.execute("SELECT reactions.restart_backfill('Image')")
        try await eventually("the backfill is sealed") {
            try session.value("SELECT state FROM reactions.backfill WHERE entity_type = 'Image'") == "sealed"
        }
        #expect(try rows(of: 3, stack) == 0)
        #expect(try session.query(read).map { $0[1] } == ["36", "36", nil, "36", "36"].map { $0 ?? "0" })

        try write("generate_series(3, 3)")
        try session.execute("SELECT reactions.react(3, 8, 'Like', 'Frozen')")
        try await stack.drained(session)
        #expect(try session.query(read).map { $0[1] } == ["36", "36", "28", "36", "36"])
        #expect(try rows(of: 3, stack) == 2 * 19)
        try expectDeltasAgree(stack)
        #expect(!stack.agentLog().contains("term ended"))
    }

    /// Deletions in other tables take the reactions along when the table of reactions is frozen.
    @Test("users and entities that are deleted in phase stop_writes are gone, by their foreign keys")
    func foreignKeys() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute(
            """
            CREATE TABLE person (id integer PRIMARY KEY);
            CREATE TABLE image (id integer PRIMARY KEY);
            INSERT INTO person SELECT generate_series(1, 300);
            INSERT INTO image SELECT generate_series(1, 10);
            CREATE TABLE reaction (
                u integer NOT NULL REFERENCES person ON DELETE CASCADE, e integer NOT NULL REFERENCES image ON DELETE CASCADE,
                k text NOT NULL, UNIQUE (u, e, k));
            CREATE INDEX ON reaction (e);
            SELECT reactions.attach('reaction', 'Image', 'u', 'e', 'k');
            INSERT INTO reaction SELECT u, e, 'Like' FROM generate_series(1, 300) u, generate_series(1, 10) e WHERE (u + e) % 3 = 0
            """)
        for _ in 0..<3 { try session.execute("CALL reactions.advance('Image', true)") }
        var agent = try stack.startAgent()
        defer { agent.stop(15) }
        try session.execute(
            "SELECT reactions.react(u, e, 'Heart') FROM generate_series(1, 80) u, generate_series(1, 10) e WHERE (u + e) % 5 = 0"
        )
        let asked = "SELECT u, e, reactions.flags(u, e) AS f FROM generate_series(1, 300) u, generate_series(1, 10) e"
        let before = try session.query("SELECT * FROM (\(asked)) a WHERE f <> 0 ORDER BY 1, 2").map {
            $0.map { $0 ?? "" }
        }
        #expect(before.count > 1000)
        for round in 0..<4 {
            try session.execute("DELETE FROM person WHERE id % 7 = \(round)")
            try session.execute("DELETE FROM image WHERE id = \(round + 1)")
            agent.stop(9)
            agent = try stack.startAgent()
        }
        try await stack.drained(session)
        let left = before.filter { row in (Int(row[0]) ?? 0) % 7 > 3 && (Int(row[1]) ?? 0) > 4 }
        #expect(left.count > 200)
        for attempt in ["by what Redis has", "by what ClickHouse has"] {
            let read = try session.query("SELECT * FROM (\(asked)) a WHERE f <> 0 ORDER BY 1, 2").map {
                $0.map { $0 ?? "" }
            }
            #expect(read == left, "\(attempt)")
            try session.execute("SELECT reactions.invalidate('Image', u) FROM generate_series(1, 300) u")
        }
        try expectDeltasAgree(stack)
    }

    @Test("an agent that is killed while it erases leaves the rest to the next one")
    func killedWhileErasing() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        for start in stride(from: 1, through: 40, by: 10) {
            try session.execute(
                "SELECT reactions.react(u, e, 'Like') FROM generate_series(\(start), \(start + 9)) u, generate_series(1, 20) e"
            )
        }
        let first = try stack.startAgent(["--set", "mirror.batch_retention=1s"])
        try await stack.drained(session)
        for user in 1...20 { try session.execute("CALL reactions.forget_user(\(user))") }
        let waiting = "SELECT count(*) FROM reactions.forgotten_user WHERE waits_for = 'clickhouse'"
        try await eventually("nothing is in the outbox") { try session.value(waiting) != "0" }
        first.stop(9)
        let pending = "SELECT count(*) FROM reactions.forgotten_user WHERE state <> 'erased'"
        for milliseconds in [900, 1_300, 1_700] where try session.value(pending) != "0" {
            let agent = try stack.startAgent(["--set", "mirror.batch_retention=1s"])
            try await Task.sleep(for: .milliseconds(milliseconds))
            agent.stop(9)
        }
        let agent = try stack.startAgent(["--set", "mirror.batch_retention=1s"])
        defer { agent.stop(15) }
        try await eventually("all are erased") { try session.value(pending) == "0" }
        for table in ["entityMetricEvents", "reactionsByEntity"] {
            #expect(try stack.clickHouseRows("SELECT min(userId), count() FROM {db}.\(table)") == [["21", "400"]])
        }
        try expectDeltasAgree(stack)
        #expect(
            try session.query("SELECT DISTINCT clickhouse_rows, state FROM reactions.forgotten_users") == [
                ["80", "erased"]
            ])
    }
}
