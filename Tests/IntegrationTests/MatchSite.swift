import TestSupport

/// A backfilled table of users 1 … 200, and matches of it.
struct MatchSite {
    let site: BackfillSite
    var stack: Stack { site.stack }
    var session: PostgresConnection { site.session }

    static func make(_ stack: Stack, rows: Int = 20_000) throws -> MatchSite {
        let site = try BackfillSite.make(stack, rows: rows)
        try site.attach()
        return MatchSite(site: site)
    }

    /// An agent that matches nothing by itself.
    func agent() throws -> ServerProcess {
        try stack.startAgent(Stack.withoutMatches)
    }

    /// Runs `reactiond match`; the status is thrown away, since what it found is in the database.
    @discardableResult
    func match(_ arguments: String...) async -> (output: String, hasEndedWell: Bool) {
        do {
            return (try await stack.reactiond("match", arguments), true)
        } catch {
            return ("\(error)", false)
        }
    }

    func value(_ sql: String) throws -> String? { try session.value(sql) }

    /// The newest run: compared, differences, repaired, in flight, classes, whether it finished.
    func run() throws -> [String] {
        try session.query(
            """
            SELECT compared, differences, repaired, in_flight, classes, finished_at IS NOT NULL
            FROM reactions.match_run ORDER BY match_run_id DESC LIMIT 1
            """)[0].map { $0 ?? "" }
    }

    func differences() throws -> [[String]] {
        try session.query(
            """
            SELECT class, user_id, entity_id, in_table, in_clickhouse FROM reactions.differences
            WHERE match_run_id = (SELECT max(match_run_id) FROM reactions.match_run) ORDER BY class, user_id, entity_id
            """
        ).map { $0.map { $0 ?? "" } }
    }

    func unseen(_ sql: String) throws { try site.unseen(sql) }

    /// Changes of every kind, on users 1 … 200.
    static func write(_ session: PostgresConnection, seed: Int) throws {
        try session.execute(
            """
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction)
            SELECT (g * 31 + \(seed)) % 200 + 1, (g * 17 + \(seed * 7)) % 5000, (enum_range(NULL::"ReviewReactions"))[(g + \(seed)) % 5 + 1]
            FROM generate_series(1, 20) g ON CONFLICT DO NOTHING;
            UPDATE "ImageReaction" SET note = 'y' WHERE "userId" = \(seed % 200 + 1) AND "imageId" % 7 = 1;
            DELETE FROM "ImageReaction" WHERE "userId" = \((seed * 13) % 200 + 1) AND "imageId" % 5 = \(seed % 5)
            """)
    }
}
