import TestSupport

/// What came of bringing a table over.
struct BackfillRun {
    /// From the start of the agent until every row is in `entityMetricEvents`, and until the backfill is sealed.
    var read: Double
    var sealed: Double
    /// VmHWM of the agent.
    var peakKilobytes: Int
    var cpu: [(name: String, seconds: Double)]
}

/// What came of comparing the table with its mirror.
struct MatchRun {
    var seconds: Double
    /// VmHWM of the command, and the most that ClickHouse took for one of its queries, as far as was seen.
    var peakKilobytes: Int
    var peakMegabytesOfClickHouse: Double
}

/// An attached table of Prisma's shape whose rows are all from before its capture, and a second database in ClickHouse for the pipe.
struct BackfillSite {
    let stack: Stack
    let postgres: PostgresServer
    let clickHouse: ClickHouseServer
    let session: PostgresConnection
    let rows: Int
    let users: Int
    private let piped: Pipe

    private static let kinds = "(ARRAY['Like', 'Laugh', 'Cry', 'Heart'])"

    /// Rows in the order in which they were made, as in a table that grew: users and entities far apart.
    static func make(postgres: PostgresServer, rows: Int) async throws -> BackfillSite {
        let clickHouse = try await ClickHouseServer.start()
        let stack = try await Stack.make(postgres: postgres, clickHouse: clickHouse)
        let session = try stack.connect()
        try makeTable(session, rows: rows)
        let site = BackfillSite(
            stack: stack, postgres: postgres, clickHouse: clickHouse, session: session,
            rows: Int(try session.value(#"SELECT count(*) FROM "ImageReaction""#) ?? "") ?? 0,
            users: users(of: rows), piped: try await Pipe.make(stack, clickHouse))
        try site.session.execute("CHECKPOINT")
        return site
    }

    /// Prisma's table with its four indexes, attached. Who reacted to what is random: neither side gains by a pattern.
    static func makeTable(_ session: PostgresConnection, rows: Int) throws {
        try session.execute(
            """
            CREATE TYPE "ReviewReactions" AS ENUM ('Like', 'Dislike', 'Laugh', 'Cry', 'Heart');
            CREATE TABLE "ImageReaction" (
                id serial, "imageId" integer NOT NULL, "userId" integer NOT NULL,
                reaction "ReviewReactions" NOT NULL, "createdAt" timestamp(3) NOT NULL DEFAULT current_timestamp);
            INSERT INTO "ImageReaction" ("userId", "imageId", reaction, "createdAt")
            SELECT user_id, image_id, kind::"ReviewReactions", '2020-01-01'::timestamp + min(g) * interval '1 second'
            FROM (SELECT g, 1 + g * 7919::bigint % \(users(of: rows)) AS user_id,
                    1 + (hashint8extended(g, 1) & 2147483647) % 1000003 AS image_id, \(kinds)[g % 4 + 1] AS kind
                FROM generate_series(1, \(rows)) g) r
            GROUP BY user_id, image_id, kind ORDER BY min(g);
            ALTER TABLE "ImageReaction" ADD PRIMARY KEY (id);
            CREATE UNIQUE INDEX ON "ImageReaction" ("imageId", "userId", reaction);
            CREATE INDEX ON "ImageReaction" ("imageId");
            CREATE INDEX ON "ImageReaction" ("userId");
            SELECT reactions.attach('"ImageReaction"', 'Image', 'userId', 'imageId', 'reaction', 'createdAt', unknown_kinds => 'skip')
            """)
        try session.execute("VACUUM ANALYZE \"ImageReaction\"")
    }

    /// A hundred reactions each.
    static func users(of rows: Int) -> Int { max(rows / 100, 4) }

    /// Starts the agent on empty tables, waits until it has sealed the backfill, and checks what ClickHouse then holds.
    func backfill() async throws -> BackfillRun {
        try clickHouse.truncateMirror(stack.clickHouseDatabase)
        try session.execute("SELECT reactions.restart_backfill('Image')")
        let before = cpuSeconds(agent: nil, postgres, clickHouse)
        let began = try session.value("SELECT clock_timestamp()") ?? ""
        let agent = try stack.startAgent(Stack.withoutMatches)
        defer { agent.stop() }
        try await eventually(within: .seconds(900), "the backfill is sealed") {
            try session.value("SELECT state FROM reactions.backfill") == "sealed"
        }
        let after = cpuSeconds(agent: agent, postgres, clickHouse)
        let times = try session.query(
            """
            SELECT extract(epoch FROM read_at - '\(began)'), extract(epoch FROM sealed_at - '\(began)'), rows FROM reactions.backfill
            """)[0].map { Double($0 ?? "") ?? .nan }
        guard times[2] == Double(rows) else { throw BenchmarkError("\(times[2]) rows were read instead of \(rows)") }
        try check(stack.clickHouseDatabase, tables: MirrorRows.tables)
        return BackfillRun(
            read: times[0], sealed: times[1], peakKilobytes: peakKilobytes(agent.pid),
            cpu: cpuSeconds(from: before, to: after))
    }

    /// The seconds it takes to pipe the table into tables of the mirror's form, one after the other.
    func pipe(into tables: [String]) async throws -> Double {
        let seconds = try await piped.fill(tables.map { ($0, Self.query($0)) })
        try check(piped.database, tables: tables)
        return seconds
    }

    private static func query(_ table: String) -> String {
        let seconds = "extract(epoch FROM date_trunc('second', \\\"createdAt\\\"))::bigint".replacing(
            "\\\"", with: "\"")
        return switch table {
        case "entityMetricEvents":
            "SELECT 'Image', \"imageId\", \"userId\", 'Reaction' || reaction, 1, \(seconds), 1, 1, 0 FROM \"ImageReaction\""
        case "reactionsByEntity":
            """
            SELECT 'Image', "imageId", "userId", sum(1 << array_position(ARRAY['Like', 'Heart', 'Laugh', 'Cry'], reaction::text) - 1), 0, \
            max(\(seconds)), 1, 1, 0 FROM "ImageReaction" GROUP BY "imageId", "userId"
            """
        default:
            """
            SELECT 'Image', "imageId", 'Reaction' || reaction, count(*), 1, 0 FROM "ImageReaction" GROUP BY "imageId", reaction
            """
        }
    }

    /// Compares the table with what `backfill` has made of it; nobody writes.
    func match() async throws -> MatchRun {
        let start = microseconds()
        let match = try stack.start("match")
        var run = MatchRun(seconds: 0, peakKilobytes: 0, peakMegabytesOfClickHouse: 0)
        while match.isRunning {
            run.peakKilobytes = max(run.peakKilobytes, peakKilobytes(match.pid))
            let memory = try clickHouse.query(
                "SELECT toUInt64(max(peak_memory_usage)) FROM system.processes WHERE query LIKE '%isSet%' AND query NOT LIKE '%system.processes%'"
            )
            run.peakMegabytesOfClickHouse = max(
                run.peakMegabytesOfClickHouse, (Double(memory.split(separator: "\n").first ?? "") ?? 0) / 1_048_576)
            try await Task.sleep(for: .milliseconds(20))
        }
        run.seconds = (microseconds() - start) / 1e6
        let found = try session.query(
            "SELECT compared, differences, in_flight FROM reactions.match_run ORDER BY match_run_id DESC LIMIT 1")
        guard let row = found.first, row[1] == "0", row[2] == "0", (Double(row[0] ?? "") ?? 0) > Double(rows) / 2 else {
            throw BenchmarkError("the match found \(found)")
        }
        return run
    }

    // MARK: Checks

    /// Counts and a checksum over ids, kinds and times, which PostgreSQL reckons from the table.
    private func check(_ database: String, tables: [String]) throws {
        let flag = "CASE reaction WHEN 'Like' THEN 1 WHEN 'Heart' THEN 2 WHEN 'Laugh' THEN 4 ELSE 8 END"
        let clickHouseFlag =
            "transform(toString(metricType), ['ReactionLike', 'ReactionHeart', 'ReactionLaugh', 'ReactionCry'], [1, 2, 4, 8], 0)"
        let expected = try session.query(
            """
            SELECT count(*), sum("userId"::bigint * 31 + "imageId"::bigint * 101 + \(flag) * 7 + floor(extract(epoch FROM "createdAt"))::bigint),
                   sum("userId"::bigint * 31 + "imageId"::bigint * 101 + \(flag) * 7), sum("imageId"::bigint * 101 + \(flag) * 7)
            FROM "ImageReaction"
            """)[0].map { $0 ?? "" }
        let sums = [
            "entityMetricEvents": (
                "sum(metricValue)",
                "sum((userId * 31 + entityId * 101 + \(clickHouseFlag) * 7 + toUnixTimestamp(createdAt)) * metricValue)",
                expected[1]
            ),
            "reactionsByEntity": (
                "sum(bits)", "sum(userId * 31 * bits + entityId * 101 * bits + setMask * 7)", expected[2]
            ),
            "reactionDeltas": ("sum(delta)", "sum((entityId * 101 + \(clickHouseFlag) * 7) * delta)", expected[3]),
        ]
        for table in tables {
            guard let (count, checksum, sum) = sums[table] else { continue }
            let source =
                table == "reactionsByEntity"
                ? """
                (SELECT *, bitAnd(setMask, 1) + bitAnd(bitShiftRight(setMask, 1), 1) + bitAnd(bitShiftRight(setMask, 2), 1) \
                + bitAnd(bitShiftRight(setMask, 3), 1) AS bits FROM \(table))
                """ : table
            let found = try clickHouse.rows("SELECT \(count), \(checksum) FROM \(source)", database: database)[0]
            guard found == [expected[0], sum] else {
                throw BenchmarkError(
                    "wrong rows: \(table) holds \(found) instead of \([expected[0], sum]) (count and checksum)")
            }
        }
    }
}
