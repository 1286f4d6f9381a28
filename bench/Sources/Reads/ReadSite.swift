import TestSupport

/// A page view: which user looks at which entities.
struct PageView {
    static let entities = 100

    let user: Int64
    let first: Int64

    var ids: ClosedRange<Int64> { first...first + Int64(Self.entities) - 1 }
}

/// An attached table of Prisma's shape whose users have `reactionsPerUser` reactions each, and one index that fits the read exactly.
struct ReadSite {
    static let reactionsPerUser = 480
    /// Entities are spread so that every second one of a page has a reaction.
    static let lastFirst = Int64(reactionsPerUser * 2 - PageView.entities)

    let stack: Stack
    let session: PostgresConnection
    let users: Int

    /// - Parameter users: of `reactionsPerUser` reactions.
    static func make(_ stack: Stack, users: Int) async throws -> ReadSite {
        let session = try stack.connect()
        try session.execute(
            """
            CREATE TYPE "ReviewReactions" AS ENUM ('Like', 'Dislike', 'Laugh', 'Cry', 'Heart');
            CREATE TABLE "ImageReaction" (
                id serial, "imageId" integer NOT NULL, "userId" integer NOT NULL,
                reaction "ReviewReactions" NOT NULL, "createdAt" timestamp(3) NOT NULL DEFAULT current_timestamp);
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction)
            SELECT u, k * 2 + u % 2, (ARRAY['Like', 'Laugh', 'Cry', 'Heart'])[k % 4 + 1]::"ReviewReactions"
            FROM generate_series(1, \(users)) u, generate_series(1, \(reactionsPerUser)) k;
            """)
        try index(session, "ImageReaction")
        try session.execute(
            """
            SELECT reactions.attach('"ImageReaction"', 'Image', 'userId', 'imageId', 'reaction', 'createdAt',
                phase => 'switch_reads', unknown_kinds => 'skip')
            """)
        return ReadSite(stack: stack, session: session, users: users)
    }

    /// The key and Prisma's indexes, that of the user widened to hold the whole answer of a read.
    static func index(_ session: PostgresConnection, _ table: String) throws {
        try session.execute(
            """
            ALTER TABLE "\(table)" ADD PRIMARY KEY (id);
            CREATE UNIQUE INDEX ON "\(table)" ("imageId", "userId", reaction);
            CREATE INDEX ON "\(table)" ("userId", "imageId", reaction);
            CREATE INDEX ON "\(table)" ("imageId");
            """)
        try session.execute("VACUUM ANALYZE \"\(table)\"")
    }

    /// The same views in every run.
    func views(_ count: Int) -> [PageView] {
        (0..<count).map { index in
            PageView(user: Int64(index * 7 % users + 1), first: Int64(index * 31) % Self.lastFirst + 1)
        }
    }

    /// The statement of a page's ids, which the reads build in the same way.
    static let pageIDs = "ARRAY(SELECT generate_series($2::bigint, $2 + \(PageView.entities - 1)))"

    static let readReactions = "SELECT entity_id, flags FROM reactions.flags_many($1::bigint, \(pageIDs))"
    static let readParameter = "SELECT entity_id, flags FROM reactions.flags_many($1::bigint, $2::bigint[])"
    static let readPerRow = """
        SELECT id, reactions.flags($1::bigint, id) FROM generate_series($2::bigint, $2 + \(PageView.entities - 1)) id
        """
    static let readTable = """
        SELECT "imageId", reaction FROM "ImageReaction" WHERE "userId" = $1::bigint AND "imageId" = ANY (\(pageIDs))
        """
    static let readHash = """
        SELECT field::bigint, value FROM hgetall($3::text, $4::text || $1::bigint) WHERE field <> '_' AND field::bigint = ANY (\(pageIDs))
        """
    static let buildIDs = "SELECT \(pageIDs) FROM (SELECT $1::bigint) AS users"

    static let returnRows = """
        SELECT id, 0 FROM (SELECT $1::bigint) users, unnest(\(pageIDs)) id
        """

    /// Of so many users, everything that flags_many says of what they may have reacted on is what the table has.
    func checkAgainstTable(users count: Int) throws {
        let differences = try session.value(
            """
            WITH asked AS (SELECT DISTINCT 1 + g * \(max(self.users / count, 1)) % \(self.users) AS user_id FROM generate_series(1, \(count)) g),
            said AS (
                SELECT user_id, f.entity_id, f.flags
                FROM asked, reactions.flags_many(user_id, ARRAY(SELECT generate_series(1, \(Self.reactionsPerUser * 2)))) f
                WHERE f.flags <> 0
            ), truth AS (
                SELECT "userId" AS user_id, "imageId" AS entity_id, bit_or(flag) AS flags
                FROM "ImageReaction" JOIN asked ON user_id = "userId" JOIN reactions.kind ON kind = reaction::text
                JOIN reactions.entity_type USING (type_id)
                WHERE entity_type = 'Image' AND "imageId" <= \(Self.reactionsPerUser * 2) GROUP BY 1, 2
            )
            SELECT count(*) FROM said FULL JOIN truth USING (user_id, entity_id)
            WHERE said.flags IS DISTINCT FROM truth.flags
            """)
        try check(differences == "0", "\(differences ?? "no") differences between flags_many and the table")
    }

    /// Flags of the page's entities as the table has them, those without a reaction left out.
    func truth(_ view: PageView, _ table: String = "ImageReaction") throws -> [Int64: Int64] {
        let rows = try session.query(
            """
            SELECT "imageId", bit_or(flag) FROM "\(table)" JOIN reactions.kind ON kind = reaction::text
            WHERE "userId" = $1 AND "imageId" BETWEEN $2 AND $3 AND type_id = (
                SELECT type_id FROM reactions.entity_type WHERE entity_type = 'Image')
            GROUP BY 1
            """, ["\(view.user)", "\(view.ids.lowerBound)", "\(view.ids.upperBound)"])
        return Dictionary(
            uniqueKeysWithValues: rows.map { (Int64($0[0] ?? "") ?? 0, Int64($0[1] ?? "") ?? 0) })
    }
}
