import TestSupport
import Testing

/// A table that is written to, entities in both tiers that an agent has built of it, and what somebody does to their keys by hand.
struct ReconcileSite {
    /// Five users have reacted to each of `regular`, and 1,100, more than a sample holds, to each of `viral`.
    static let regular = 1...16
    static let viral = 101...111
    static let entities =
        "ARRAY(SELECT generate_series(1, 16)::bigint) || ARRAY(SELECT generate_series(101, 111)::bigint)"
    /// Nobody else reconciles, and nothing but its size makes an entity viral.
    static let arguments =
        Stack.withoutMatches + [
            "--set", "reconcile.interval=0s", "--set", "entities.viral_dwell=0s", "--set", "entities.viral_horizon=0s",
        ]

    let stack: Stack
    let session: PostgresConnection
    let redis: RedisConnection

    /// With an agent that the caller starts.
    static func make(clickHouse: (any ClickHouseEndpoint)? = nil) async throws -> ReconcileSite {
        // While others write to the same server SCAN may tell a key twice.
        let stack = try await Stack.make(redis: try await RedisServer.start(), clickHouse: clickHouse)
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        try session.execute(
            "UPDATE reactions.entity_type SET viral_threshold = 1000, regular_threshold = 800")
        return ReconcileSite(stack: stack, session: session, redis: try stack.redis.connect())
    }

    /// The table, which was attached without a row, is written to, and every entity is in Redis.
    func fill() async throws {
        try session.execute(
            """
            INSERT INTO "ImageReaction" ("imageId", "userId", reaction)
            SELECT e, u, (ARRAY['Like', 'Heart'])[1 + u % 2]::"ReviewReactions"
            FROM generate_series(1, 16) e, generate_series(1, 5) u;
            INSERT INTO "ImageReaction" ("imageId", "userId", reaction)
            SELECT e, u, 'Like' FROM generate_series(101, 111) e, generate_series(1, 1100) u
            """)
        try await built()
    }

    /// Every entity is in Redis, in its tier.
    func built() async throws {
        try await stack.drained(session)
        try await eventually(within: .seconds(120), "every entity is in its tier") {
            _ = try served()
            return try session.value(
                """
                SELECT bool_and((reactions.entity_status(e)).tier IS NOT DISTINCT FROM CASE WHEN e < 100 THEN 'regular' ELSE 'viral' END)
                FROM unnest(\(Self.entities)) e
                """) == "t"
        }
    }

    // MARK: What is there

    private func rows(_ sql: String) throws -> [String] {
        try session.query(sql).map { $0.map { $0 ?? "" }.joined(separator: " ") }.sorted()
    }

    /// As `entity kind count`.
    func served() throws -> [String] {
        try rows("SELECT entity_id, kind, count FROM reactions.counts(\(Self.entities)) WHERE count <> 0")
    }

    func truth() throws -> [String] {
        try rows(#"SELECT "imageId", reaction, count(*) FROM "ImageReaction" GROUP BY 1, 2"#)
    }

    func mirrored() throws -> [String] {
        try stack.clickHouseRows(
            """
            SELECT entityId, substring(toString(metricType), 9), count() FROM (SELECT entityId, userId, metricType
                FROM {db}.entityMetricEvents GROUP BY entityId, userId, metricType HAVING argMax(metricValue, version) > 0)
            GROUP BY entityId, metricType
            """
        ).map { $0.joined(separator: " ") }.sorted()
    }

    /// Of Redis: who has reacted, by its lists.
    func listed(_ entity: Int) throws -> [String] {
        try rows("SELECT user_id, flags FROM reactions.reactors(\(entity), page_size => 1000)")
    }

    /// Every entity's keys and what is in them.
    func contents() throws -> [String: RedisReply] {
        var contents: [String: RedisReply] = [:]
        for key in try stack.redisDeployment.keys("\(stack.prefix)image:*") {
            contents[key] = try redis.command(
                "EVAL", "return redis.sha1hex(redis.call('DUMP', KEYS[1]))", "1", key)
        }
        return contents
    }

    /// Redis has the counts of the table, as ClickHouse has.
    func expectTruth(sourceLocation: SourceLocation = #_sourceLocation) async throws {
        try await built()
        let truth = try truth()
        #expect(try served() == truth, sourceLocation: sourceLocation)
        #expect(try mirrored() == truth, sourceLocation: sourceLocation)
        for entity in Self.regular {
            let flags = try rows(
                """
                SELECT "userId", sum(CASE reaction WHEN 'Like' THEN 1 WHEN 'Heart' THEN 2 END) FROM "ImageReaction"
                WHERE "imageId" = \(entity) GROUP BY 1
                """)
            #expect(try listed(entity) == flags, sourceLocation: sourceLocation)
        }
        for entity in Self.viral { #expect(try listed(entity).count == 1000, sourceLocation: sourceLocation) }
    }

    // MARK: By hand

    func key(_ entity: Int, _ suffix: String) -> String {
        "\(stack.prefix)image:\(entity % 100):\(entity):\(suffix)"
    }

    func redis(_ command: String, _ entity: Int, _ suffix: String, _ arguments: String...) throws {
        if case .error(let text) = try redis.command([command, key(entity, suffix)] + arguments) {
            throw TestSupportError("\(command): \(text)")
        }
    }

    /// Replaces a packed list by what the Lua expression makes of it, `l`: 29 bytes, of which the last 19 are the floor, and 20 for each
    /// user, of which 19 are the position and one the flags.
    func edit(_ entity: Int, _ suffix: String, _ expression: String) throws {
        let script = "local l = redis.call('GET', KEYS[1]); return redis.call('SET', KEYS[1], \(expression), 'KEEPTTL')"
        guard case .string("OK") = try redis.command("EVAL", script, "1", key(entity, suffix)) else {
            throw TestSupportError("the list of \(entity) is not there")
        }
    }

    /// One fault of each kind, at entities of its own; 1 and 101 stay right. Returns them, `class entity`, by entity.
    func plant() throws -> [String] {
        // Counts.
        try redis("HINCRBY", 2, "reaction_counts", "Like", "1")
        try redis("HSET", 3, "reaction_counts", "total", "99")
        try redis("HSET", 15, "reaction_counts", "users", "4")
        try redis("HSET", 16, "reaction_counts", "Angry", "3")
        // A user too few, too many; other kinds; a floor; another user with the same kinds.
        try edit(4, "reactions", "l:sub(1, 29) .. l:sub(50)")
        try edit(5, "reactions", "l:sub(1, 29) .. l:sub(30, 47) .. '~' .. l:sub(49, 49) .. l:sub(30)")
        try edit(6, "reactions", "l:sub(1, 48) .. string.char(l:byte(49) == 1 and 2 or 1) .. l:sub(50)")
        try edit(13, "reactions", "l:sub(1, 10) .. l:sub(30, 48) .. l:sub(30)")
        try edit(14, "reactions", "l:sub(1, 47) .. '~' .. l:sub(49)")
        // Keys: of the other tier, of another type, gone, of another entity.
        try redis("SET", 7, "sample", "x")
        try redis("UNLINK", 8, "reaction_counts")
        try redis("RPUSH", 8, "reaction_counts", "planted")
        try redis("UNLINK", 9, "reaction_counts")
        try redis("UNLINK", 10, "reactions")
        try redis("COPY", 1, "reactions", key(11, "reactions"), "REPLACE")
        try redis("UNLINK", 12, "reactions")
        try redis("RPUSH", 12, "reactions", "planted")
        // Viral ones.
        try redis("SET", 102, "total_reactions", "1", "KEEPTTL")
        try redis("UNLINK", 103, "viral")
        try edit(104, "sample", "l:sub(1, 29) .. l:sub(50)")
        try edit(105, "sample", "l:sub(1, 46) .. '~' .. l:sub(48)")
        try edit(106, "sample", "l:sub(1, 10) .. string.rep('\\0', 18) .. 'x' .. l:sub(30)")
        try edit(107, "sample", "l:sub(1, 10) .. string.rep('\\0', 19) .. l:sub(30)")
        try redis("SET", 108, "reactions", "x")
        try edit(109, "sample", "l:sub(1, 10) .. l:sub(30 + 299 * 20, 48 + 299 * 20) .. l:sub(30, 29 + 300 * 20)")
        try redis("HINCRBY", 110, "reaction_counts", "Heart", "7")
        try edit(111, "sample", "l:sub(1, 10) .. l:sub(30 + 499 * 20, 48 + 499 * 20) .. l:sub(30)")
        return [
            "drift 2", "drift 3", "drift 4", "drift 5", "drift 6", "leftover 7", "wrong_type 8", "no_counts 9",
            "missing_part 10", "wrong_nonce 11", "wrong_type 12", "drift 13", "drift 14", "drift 15", "drift 16",
            "drift 102", "missing_part 103", "drift 104", "drift 105", "drift 106", "drift 107", "leftover 108",
            "shrunk_sample 109", "drift 110", "drift 111",
        ]
    }

    // MARK: The command

    /// Whether it ended well, and what it printed.
    func reconcile(_ arguments: String...) async -> (hasEndedWell: Bool, output: String) {
        do {
            return (true, try await stack.reactiond("reconcile", arguments))
        } catch {
            return (false, "\(error)")
        }
    }

    /// Of the newest run, as `class entity`, by entity.
    func findings(_ condition: String = "true") throws -> [String] {
        try session.query(
            """
            SELECT class || ' ' || coalesce(entity_id::text, redis_key) FROM reactions.reconcile_finding
            WHERE reconcile_run_id = (SELECT max(reconcile_run_id) FROM reactions.reconcile_run) AND \(condition) ORDER BY entity_id
            """
        ).map { $0[0] ?? "" }
    }

    /// What the newest run has found to be right, or wrong, by class.
    func classes() throws -> [String: String] {
        let rows = try session.query(
            """
            SELECT class, sum(found) FROM reactions.reconcile_class
            WHERE reconcile_run_id = (SELECT max(reconcile_run_id) FROM reactions.reconcile_run) GROUP BY class
            """)
        return Dictionary(rows.map { ($0[0] ?? "", $0[1] ?? "") }) { first, _ in first }
    }
}
