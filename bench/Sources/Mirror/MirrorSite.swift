import Foundation
import Pipeline
import TestSupport

/// What came of draining a backlog.
struct Drain {
    var seconds: Double
    /// VmHWM of the agent.
    var peakKilobytes: Int
    var cpu: [(name: String, seconds: Double)]
}

/// A table of reactions that is captured, the servers, and a second database in ClickHouse for the pipe.
struct MirrorSite {
    let stack: Stack
    let postgres: PostgresServer
    let redis: RedisServer
    let clickHouse: ClickHouseServer
    let session: PostgresConnection
    private let piped: Pipe

    /// Prime to each other, so that no two reactions are of the same user on the same entity. A chunk changes as many counts as it can.
    private static let users = 50_000
    private static let entities = 1_000_003

    /// - Parameter waitsForAge: what was confirmed before a start of ClickHouse is verified, give or take a minute of clock skew; with
    ///   an older server each drain begins with what is new.
    static func make(postgres: PostgresServer, waitsForAge: Bool) async throws -> MirrorSite {
        let (redis, clickHouse) = (try await RedisServer.start(), try await ClickHouseServer.start())
        let stack = try await Stack.make(postgres: postgres, redis: redis, clickHouse: clickHouse)
        let site = MirrorSite(
            stack: stack, postgres: postgres, redis: redis, clickHouse: clickHouse, session: try stack.connect(),
            piped: try await Pipe.make(stack, clickHouse))
        try site.session.execute(
            """
            CREATE TABLE reaction (
                user_id bigint NOT NULL, entity_id bigint NOT NULL, kind text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
                PRIMARY KEY (user_id, entity_id, kind));
            CREATE SEQUENCE reaction_number;
            SELECT reactions.attach('reaction', 'Image', 'user_id', 'entity_id', 'kind', 'created_at')
            """)
        while waitsForAge, Int(try clickHouse.query("SELECT uptime()").filter(\.isNumber)) ?? 0 < 61 {
            try await Task.sleep(for: .seconds(1))
        }
        return site
    }

    /// Writes events while no agent runs: every fifth sets two kinds.
    func fill(_ events: Int, perTransaction: Int) throws {
        for _ in 0..<events / perTransaction { try session.execute(Self.insert(perTransaction)) }
        try session.execute("CHECKPOINT")
    }

    private static func insert(_ events: Int) -> String {
        """
        INSERT INTO reaction
        SELECT 1 + n * 7919 % \(users), 1 + n % \(entities), kind, now()
        FROM (SELECT nextval('reaction_number') AS n FROM generate_series(1, \(events))) AS new
        CROSS JOIN LATERAL (SELECT 'Like' AS kind UNION ALL SELECT 'Heart' WHERE n % 5 = 0) AS kinds
        """
    }

    // MARK: Contenders

    /// Starts the agent, waits until it has finished what is in the outbox, and checks what ClickHouse then holds.
    func drain() async throws -> Drain {
        let last = try session.value("SELECT max(version) FROM reactions._outbox") ?? ""
        let expected = try MirrorRows(outbox: session, above: try floor())
        let newest = Int64(try session.value("SELECT coalesce(max(batch), 0) FROM reactions._batch") ?? "") ?? 0
        try clickHouse.truncateMirror(stack.clickHouseDatabase)
        let before = cpuSeconds(agent: nil, postgres, clickHouse, redis)
        let start = microseconds()
        let agent = try stack.startAgent()
        defer { agent.stop() }
        try await eventually(within: .seconds(600), "the outbox is drained") {
            try session.value("SELECT coalesce(max(floor), 0) >= \(last) FROM reactions._mirror") == "t"
        }
        let seconds = (microseconds() - start) / 1e6
        let after = cpuSeconds(agent: agent, postgres, clickHouse, redis)
        try expected.check(clickHouse, stack.clickHouseDatabase, batchesAbove: newest)
        return Drain(
            seconds: seconds, peakKilobytes: peakKilobytes(agent.pid),
            cpu: cpuSeconds(from: before, to: after))
    }

    /// The seconds it takes to pipe the outbox's unfinished rows into the three tables, one table after the other.
    func pipe() async throws -> Double {
        let floor = try floor()
        let expected = try MirrorRows(outbox: session, above: floor)
        let seconds = try await piped.fill(MirrorRows.pipedQueries(above: floor))
        try expected.check(clickHouse, piped.database)
        return seconds
    }

    private func floor() throws -> Int64 {
        Int64(try session.value("SELECT coalesce(max(floor), 0) FROM reactions._mirror") ?? "") ?? 0
    }

    // MARK: A running agent

    /// An agent that leads.
    func startAgent() async throws -> ServerProcess {
        let agent = try stack.startAgent()
        try await eventually(within: .seconds(30), "the agent leads") {
            try session.value("SELECT agent_pid IS NOT NULL FROM reactions.mirror_status") == "t"
        }
        return agent
    }

    /// Waits until writers are asked to wake the agent, and a little more.
    func asleep() async throws {
        try await eventually(within: .seconds(60), "the agent is asleep") {
            try session.value(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1380013139 AND objid = 2")
                == "1"
        }
        try await Task.sleep(for: .seconds(2))
    }

    /// The lag of single-row transactions at this rate, over the batches that hold them.
    func lag(eventsPerSecond rate: Int, seconds: Int) async throws -> LagHistogram {
        let first = try session.value("SELECT coalesce(max(batch), 0) FROM reactions._batch") ?? "0"
        let directory = try TemporaryDirectory(owner: "postgres")
        try directory.write(
            "script.sql", Self.insert(1).replacing("'Heart' WHERE n % 5 = 0", with: "'Heart' WHERE false") + ";\n")
        _ = try await PostgresServer.tool(
            "pgbench",
            [
                "--no-vacuum", "--protocol=prepared", "--file=\(directory.file("script.sql"))", "--client=8",
                "--jobs=1",
                "--rate=\(rate)", "--time=\(seconds)", postgres.conninfo(database: stack.database),
            ])
        try await stack.drained(session)
        var lag = LagHistogram()
        for row in try session.query(
            "SELECT lag_histogram FROM reactions._batch WHERE batch > \(first) AND events > 0")
        {
            let counts = (row[0] ?? "").split { "{},".contains($0) }.compactMap { Int32($0) }
            guard let batch = LagHistogram(counts: counts) else { throw BenchmarkError("a batch has no lag") }
            lag.add(batch)
        }
        let share = Double(lag.total) / Double(rate * seconds)
        guard share > 0.9 else { throw BenchmarkError("only \(number(share * 100, 0)) % of the rate were written") }
        return lag
    }
}
