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

    func sealed() async throws {
        try await reaches("the backfill is sealed", within: .seconds(180)) {
            try session.value("SELECT state FROM reactions.backfill") == "sealed"
        }
    }

    /// As `eventually`; an error tells the state.
    func reaches(
        _ what: String, within limit: Duration = .seconds(120), _ condition: () throws -> Bool
    ) async throws {
        do { try await eventually(within: limit, what, condition) } catch {
            throw TestSupportError("\(error): \(try state())")
        }
    }

    /// By an agent that is there for nothing else.
    func backfilledByAgent() async throws {
        let agent = try stack.startAgent(Stack.withoutMatches)
        defer { agent.stop(15) }
        try await sealed()
        try await stack.drained(session)
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

    /// Statements that capture does not see.
    func unseen(_ sql: String) throws {
        try session.execute(
            """
            BEGIN; ALTER TABLE "ImageReaction" DISABLE TRIGGER USER; \(sql);
            DO $$ DECLARE n name; BEGIN
                FOR n IN SELECT tgname FROM pg_trigger WHERE tgrelid = '"ImageReaction"'::regclass AND NOT tgisinternal LOOP
                    EXECUTE format('ALTER TABLE "ImageReaction" ENABLE ALWAYS TRIGGER %I', n);
                END LOOP; END $$;
            COMMIT
            """)
    }

    /// Rows appear in the holes of the table and behind its end, move (an UPDATE writes them elsewhere), lose or change their kind, go.
    func write(seed: Int, truncates: Bool = false) throws {
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
}
