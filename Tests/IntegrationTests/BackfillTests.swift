import Foundation
import TestSupport
import Testing

/// A table with rows from before its capture; at the end ClickHouse agrees with it in three ways.
struct BackfillSite {
    let stack: Stack
    let session: PostgresConnection

    /// - Parameter rows: about so many, of users 1 … 200; a tenth is of the kind `Dislike`, which is skipped.
    static func make(_ stack: Stack, rows: Int) throws -> BackfillSite {
        let session = try stack.connect()
        try session.execute(
            """
            CREATE TYPE "ReviewReactions" AS ENUM ('Like', 'Dislike', 'Laugh', 'Cry', 'Heart');
            CREATE TABLE "ImageReaction" (
                id serial PRIMARY KEY, "imageId" integer NOT NULL, "userId" integer NOT NULL,
                reaction "ReviewReactions" NOT NULL, "createdAt" timestamp(3) NOT NULL DEFAULT current_timestamp,
                note text NOT NULL DEFAULT repeat('x', 100));
            CREATE UNIQUE INDEX "ImageReaction_key" ON "ImageReaction" ("imageId", "userId", reaction);
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction, "createdAt")
            SELECT g % 200 + 1, g / 5, (enum_range(NULL::"ReviewReactions"))[g % 10 % 5 + 1], '2020-01-01'::timestamp + g * interval '1 s'
            FROM generate_series(1, \(rows)) g;
            DELETE FROM "ImageReaction" WHERE id % 7 = 0;
            VACUUM "ImageReaction"
            """.replacing("VACUUM \"ImageReaction\"", with: ""))
        try session.execute("VACUUM \"ImageReaction\"")
        return BackfillSite(stack: stack, session: session)
    }

    func attach() throws {
        try session.execute(
            """
            SELECT reactions.attach('"ImageReaction"', 'Image', 'userId', 'imageId', 'reaction', 'createdAt',
                unknown_kinds => 'skip')
            """)
        // Small ranges, so that there is a middle to be killed in.
        try session.execute("UPDATE reactions._backfill SET range_blocks = 4 WHERE sealed_at IS NULL")
    }

    func sealed(within limit: Duration = .seconds(120)) async throws {
        do {
            try await eventually(within: limit, "the backfill is sealed") {
                try session.value("SELECT state FROM reactions.backfill") == "sealed"
            }
        } catch {
            throw TestSupportError("\(error): \(try state())")
        }
    }

    func state() throws -> String {
        try session.query("SELECT * FROM reactions.backfill").map { "\($0)" }.joined() + stack.agentLog().suffix(3000)
    }

    /// What the table says: user, entity, kind.
    func truth() throws -> [[String]] {
        try session.query(
            """
            SELECT "userId", "imageId", 'Reaction' || reaction FROM "ImageReaction" WHERE reaction <> 'Dislike'
            ORDER BY 1, 2, 3
            """
        ).map { $0.map { $0 ?? "" } }
    }

    func expectAgreement(_ comment: Comment? = nil) async throws {
        try await stack.drained(session)
        let truth = try truth()
        let state = try stack.clickHouseRows(
            """
            SELECT userId, entityId, metricType FROM {db}.entityMetricEvents WHERE entityType = 'Image'
            GROUP BY userId, entityId, metricType HAVING argMax(metricValue, version) > 0 ORDER BY userId, entityId, metricType
            """)
        #expect(Self.differences(truth, state).isEmpty, comment)
        #expect(truth.count == state.count)
        // As the original plan's query sums them: plainly.
        let sums = try stack.clickHouseRows(
            """
            SELECT userId, entityId, metricType, sum(metricValue) AS value FROM {db}.entityMetricEvents WHERE entityType = 'Image'
            GROUP BY userId, entityId, metricType HAVING value != 0 ORDER BY userId, entityId, metricType
            """)
        #expect(Self.differences(truth.map { $0 + ["1"] }, sums).isEmpty, comment)
        let counts = try session.query(
            """
            SELECT "imageId", 'Reaction' || reaction, count(*) FROM "ImageReaction" WHERE reaction <> 'Dislike'
            GROUP BY 1, 2 ORDER BY 1, 2
            """
        ).map { $0.map { $0 ?? "" } }
        let deltas = try stack.clickHouseRows(
            """
            SELECT entityId, metricType, sum(delta) AS count FROM {db}.reactionDeltas WHERE entityType = 'Image'
            GROUP BY entityId, metricType HAVING count != 0 ORDER BY entityId, metricType
            """)
        #expect(Self.differences(counts, deltas).isEmpty, comment)
        // Who reacted, by the newest row of each kind.
        let reactors = try stack.clickHouseRows(
            """
            SELECT userId, entityId, kind FROM (
                SELECT userId, entityId, version, bitAnd(setMask, bit) > 0 AS isSet,
                       arrayJoin([1, 2, 4, 8]) AS bit, transform(bit, [1, 2, 4, 8], \
            ['ReactionLike', 'ReactionHeart', 'ReactionLaugh', 'ReactionCry'], '') AS kind
                FROM {db}.reactionsByEntity WHERE entityType = 'Image' AND bitAnd(bitOr(setMask, clearMask), bit) > 0)
            GROUP BY userId, entityId, kind HAVING argMax(isSet, version) > 0 ORDER BY userId, entityId, kind
            """)
        #expect(Self.differences(truth, reactors).isEmpty, comment)
    }

    /// The first rows that are in one only, to be read in a failure.
    static func differences(_ left: [[String]], _ right: [[String]]) -> [String] {
        Set(left).symmetricDifference(right).prefix(5).map { "\($0)" }
    }
}

@Suite("Backfill", .serialized) struct BackfillTests {
    @Test("the rows of an attached table are in ClickHouse, and capture stops reporting rows that are only rewritten")
    func quiet() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 20_000)
        try site.attach()
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.sealed()
        try await site.expectAgreement()
        let report = try site.session.query("SELECT rows, skipped_rows, blocks = blocks_read FROM reactions.backfill")
        let counts = try site.session.query(
            """
            SELECT count(*) FILTER (WHERE reaction <> 'Dislike'), count(*) FILTER (WHERE reaction = 'Dislike'), true FROM "ImageReaction"
            """)
        #expect(report == counts)
        #expect(try site.session.value("SELECT backfilled FROM reactions.status()") == "t")
        let agentIsAt = try site.session.value("SELECT count(*) FROM reactions._outbox")
        try site.session.execute("UPDATE \"ImageReaction\" SET note = note")
        #expect(try site.session.value("SELECT count(*) FROM reactions._outbox") == agentIsAt)
        let times = try site.stack.clickHouseRows(
            "SELECT min(toUnixTimestamp(createdAt)), max(toUnixTimestamp(createdAt)) FROM {db}.entityMetricEvents WHERE entityType = 'Image'"
        )
        let created = try site.session.query(
            """
            SELECT extract(epoch FROM min("createdAt"))::bigint, extract(epoch FROM max("createdAt"))::bigint
            FROM "ImageReaction" WHERE reaction <> 'Dislike'
            """)
        #expect(times == created.map { $0.map { $0 ?? "" } })
    }

    /// Rows appear in the holes of the table and behind its end, move (an UPDATE writes them elsewhere), lose or change their kind, go.
    private func write(_ site: BackfillSite, seed: Int, truncates: Bool = false) throws {
        let session = site.session
        try session.execute(
            """
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction)
            SELECT 1 + (random() * 250)::integer, (random() * 4000)::integer, (enum_range(NULL::"ReviewReactions"))[1 + (random() * 4)::integer]
            FROM generate_series(1, 30) ON CONFLICT DO NOTHING;
            UPDATE "ImageReaction" SET note = repeat('y', 100 + \(seed % 7) * 10) WHERE id % 97 = \(seed % 97);
            DELETE FROM "ImageReaction" WHERE id % 89 = \(seed % 89);
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction)
            SELECT "userId", "imageId", 'Heart' FROM "ImageReaction" WHERE id % 83 = \(seed % 83) AND reaction = 'Like' ON CONFLICT DO NOTHING;
            UPDATE "ImageReaction" r SET reaction = 'Cry' WHERE id % 79 = \(seed % 79) AND reaction = 'Laugh'
                AND NOT EXISTS (SELECT FROM "ImageReaction" o WHERE o."userId" = r."userId" AND o."imageId" = r."imageId" AND o.reaction = 'Cry')
            """)
        if truncates { try session.execute("TRUNCATE \"ImageReaction\"") }
        try session.execute("SELECT pg_sleep(0.005)")
    }

    @Test("rows that move, appear and vanish while the agent is killed twenty times come out right")
    func liveAndKilled() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 60_000)
        try site.attach()
        for seed in 0..<20 { try write(site, seed: seed) }
        var kills = 0
        var killedInTheMiddle = 0
        var seed = 20
        while kills < 20 {
            let agent = try site.stack.startAgent(["--set", "backfill.rows_per_second=8000"])
            for _ in 0..<(20 + kills * 5) {
                seed += 1
                try write(site, seed: seed)
            }
            agent.stop(9)
            kills += 1
            let isInTheMiddle = try site.session.value(
                "SELECT state = 'reading' AND blocks_read > 0 AND blocks_read < blocks FROM reactions.backfill")
            if isInTheMiddle == "t" { killedInTheMiddle += 1 }
        }
        #expect(killedInTheMiddle >= 5)
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        while try site.session.value("SELECT state FROM reactions.backfill") != "sealed" {
            seed += 1
            try write(site, seed: seed)
            if seed > 3_000 { throw TestSupportError(try site.state()) }
        }
        for _ in 0..<50 {
            seed += 1
            try write(site, seed: seed)
        }
        try await site.expectAgreement()
    }

    @Test("an agent that is killed while it seals has done nothing twice")
    func killedWhileSealing() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 60_000)
        try site.attach()
        var killed = 0
        for round in 0..<8 {
            // Read anew under new versions: every sum is off, and is made up for.
            if round > 0 { try site.session.execute("SELECT reactions.restart_backfill('Image')") }
            var agent = try site.stack.startAgent()
            for seed in 0..<10 { try write(site, seed: round * 10 + seed) }
            try await eventually(within: .seconds(60), "it seals") {
                ["sealing", "sealed"].contains(try site.session.value("SELECT state FROM reactions.backfill"))
            }
            // Waits for nothing: chooses another moment of the sealing in each round. `killed` says how often it was one.
            try await Task.sleep(for: .milliseconds(round * 20))
            agent.stop(9)
            if try site.session.value("SELECT state FROM reactions.backfill") == "sealing" { killed += 1 }
            agent = try site.stack.startAgent()
            defer { agent.stop(15) }
            try await site.sealed()
            try await site.expectAgreement("round \(round)")
        }
        #expect(killed >= 3)
    }

    @Test("rows that are there twice when everything is read are merged before they are summed")
    func doubled() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 20_000)
        try site.attach()
        // Two ranges, of which the second is the last block: so few parts are not merged by themselves.
        try site.session.execute("UPDATE reactions._backfill SET range_blocks = blocks - 1")
        let agent = try site.stack.startAgent([
            "--set", "backfill.rows_per_second=5000", "--set", "backfill.sessions=1",
        ])
        defer { agent.stop(15) }
        try await eventually(within: .seconds(30), "the first range is read") {
            try site.session.value("SELECT blocks_read > 0 FROM reactions.backfill") == "t"
        }
        // As an attempt does that arrives late on a server without deduplication tokens.
        _ = try site.stack.clickHouseRows(
            "INSERT INTO {db}.entityMetricEvents SELECT * FROM {db}.entityMetricEvents WHERE batch IN (SELECT DISTINCT batch FROM {db}.entityMetricEvents)"
        )
        #expect(try site.session.value("SELECT state FROM reactions.backfill") == "reading")
        try await site.sealed()
        try await site.expectAgreement()
    }

    @Test("a table that is rewritten is read anew, and one that is truncated under new versions")
    func rewrittenAndTruncated() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 60_000)
        try site.attach()
        let arguments = ["--set", "backfill.rows_per_second=20000", "--set", "backfill.sessions=1"]
        let agent = try site.stack.startAgent(arguments)
        defer { agent.stop(15) }
        func readSome() async throws {
            try await eventually(within: .seconds(30), "something is read") {
                try site.session.value("SELECT blocks_read > 0 AND state = 'reading' FROM reactions.backfill") == "t"
            }
        }
        try await readSome()
        let first = try site.session.query("SELECT version, number FROM reactions._backfill")
        try write(site, seed: 1)
        try site.session.execute("VACUUM FULL \"ImageReaction\"")
        try write(site, seed: 2)
        try await eventually { try site.session.query("SELECT version, number FROM reactions._backfill") != first }
        #expect(
            try site.session.value("SELECT version FROM reactions._backfill") == first[0][0], "the rows are the same")
        try site.session.execute("UPDATE reactions._backfill SET range_blocks = 4")
        try await readSome()
        try write(site, seed: 3, truncates: true)
        for seed in 4..<60 { try write(site, seed: seed) }
        #expect(try site.session.value("SELECT count(*) FROM reactions._backfill") == "2")
        try await site.sealed()
        try await site.expectAgreement()
    }

    @Test("what vanished while the table was detached is gone after it was attached again, and what appeared is there")
    func reattached() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 20_000)
        try site.attach()
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.sealed()
        for seed in 0..<10 { try write(site, seed: seed) }
        try site.session.execute("SELECT reactions.detach('Image')")
        for seed in 10..<40 { try write(site, seed: seed) }
        try site.session.execute("DELETE FROM \"ImageReaction\" WHERE \"userId\" % 3 = 0")
        try site.attach()
        for seed in 40..<60 { try write(site, seed: seed) }
        try await site.sealed()
        try await site.expectAgreement()
        #expect(try site.session.value("SELECT count(*) FROM reactions._backfill WHERE sealed_at IS NOT NULL") == "2")
    }

    @Test(
        "the command works beside an agent that waits to be asked, shows how far it is, and ends when everything is sealed"
    )
    func command() async throws {
        let site = try BackfillSite.make(try await Stack.make(), rows: 20_000)
        try site.attach()
        let agent = try site.stack.startAgent(["--set", "backfill.automatic=false"])
        defer { agent.stop(15) }
        for seed in 0..<20 { try write(site, seed: seed) }
        #expect(try site.session.value("SELECT state FROM reactions.backfill") == "reading")
        let output = try await site.stack.reactiond("backfill", "Image")
        #expect(output.contains("100 %") && output.contains("sealed"), "\(output)")
        try await site.expectAgreement()
        await #expect(throws: TestSupportError.self) { try await site.stack.reactiond("backfill", "Nothing") }
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
        try await eventually(within: .seconds(30)) {
            try session.value("SELECT state FROM reactions.backfill") == "sealed"
        }
        let kinds = try stack.clickHouseRows(
            "SELECT metricType, count() FROM {db}.entityMetricEvents GROUP BY metricType ORDER BY metricType")
        #expect(kinds == [["ReactionLike", "99"], ["ReactionRage", "1"]])
        #expect(try session.value("SELECT error FROM reactions.backfill") == nil)
    }
}
