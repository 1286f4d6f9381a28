import Foundation

/// Real servers with a database, a key prefix and a ClickHouse database of the test's own.
///
/// The servers are shared by the tests of a process unless a test hands in its own, because it stops or starves it.
public struct Stack: Sendable {
    public let postgres: PostgresServer
    /// One of the servers of `redisDeployment`, the only one as a rule.
    public let redis: RedisServer
    public let redisDeployment: any RedisDeployment
    public let clickHouse: any ClickHouseEndpoint
    public let database: String
    public let prefix: String
    public let clickHouseDatabase: String
    private let directory: TemporaryDirectory

    public static let preloaded = Shared { try await PostgresServer.start(sharedPreloadLibraries: ["pg_reactions"]) }

    public static func make(
        postgres: PostgresServer? = nil, redis: (any RedisDeployment)? = nil,
        clickHouse: (any ClickHouseEndpoint)? = nil,
        clickHouseHost: String? = nil
    ) async throws -> Stack {
        let postgres = if let postgres { postgres } else { try await preloaded.value }
        let redis: any RedisDeployment = if let redis { redis } else { try await RedisServer.shared.value }
        let clickHouse: any ClickHouseEndpoint =
            if let clickHouse { clickHouse } else { try await ClickHouseServer.shared.value }
        let stack = Stack(
            postgres: postgres, redis: redis.servers[0], redisDeployment: redis, clickHouse: clickHouse,
            database: try postgres.createDatabase(),
            prefix: uniqueName("p") + ":", clickHouseDatabase: uniqueName("mirror"), directory: try TemporaryDirectory()
        )
        let session = try stack.connect()
        try session.execute("CREATE EXTENSION pg_reactions")
        var url = clickHouse.url
        if let clickHouseHost { url = url.replacing("127.0.0.1", with: clickHouseHost) }
        try stack.set("redis_url", redis.url)
        try stack.set("key_prefix", stack.prefix)
        try stack.set("clickhouse_url", url)
        try stack.set("clickhouse_database", stack.clickHouseDatabase)
        // A server that answers late is no trouble, unless a test says so.
        for name in ["redis_connect_timeout", "redis_timeout"] { try stack.set(name, "5s") }
        try stack.set("clickhouse_timeout", "60s")
        try await stack.reactiond("init-clickhouse", clickHouse.cluster.map { ["--cluster", $0] } ?? [])
        return stack
    }

    /// The same database on another server: its replica, after a failover.
    public func moved(to postgres: PostgresServer) throws -> Stack {
        Stack(
            postgres: postgres, redis: redis, redisDeployment: redisDeployment, clickHouse: clickHouse,
            database: database, prefix: prefix, clickHouseDatabase: clickHouseDatabase,
            directory: try TemporaryDirectory())
    }

    /// Sets `reactions.<name>` for new sessions of the database.
    public func set(_ name: String, _ value: String) throws {
        try postgres.connect().execute("ALTER DATABASE \(database) SET reactions.\(name) = '\(value)'")
    }

    public func connect(user: String = "postgres") throws -> PostgresConnection {
        try postgres.connect(database: database, user: user)
    }

    /// Makes `"ImageReaction"` as Prisma makes it, and attaches it as type `Image`; kind `Dislike` is skipped.
    public func makePrismaTable(_ session: PostgresConnection, phase: String) throws {
        try session.execute(
            """
            CREATE TYPE "ReviewReactions" AS ENUM ('Like', 'Dislike', 'Laugh', 'Cry', 'Heart');
            CREATE TABLE "ImageReaction" (
                id serial PRIMARY KEY, "imageId" integer NOT NULL, "userId" integer NOT NULL,
                reaction "ReviewReactions" NOT NULL, "createdAt" timestamp(3) NOT NULL DEFAULT current_timestamp);
            CREATE UNIQUE INDEX "ImageReaction_imageId_userId_reaction_key" ON "ImageReaction" ("imageId", "userId", reaction);
            CREATE INDEX "ImageReaction_userId_idx" ON "ImageReaction" ("userId");
            SELECT reactions.attach('"ImageReaction"', 'Image', 'userId', 'imageId', 'reaction', 'createdAt',
                phase => '\(phase)', unknown_kinds => 'skip')
            """)
    }

    // MARK: The agent

    public static var reactiondPath: String {
        ProcessInfo.processInfo.environment["REACTIOND"] ?? packageRoot + "/.build/release/reactiond"
    }

    private func configurationFile() throws -> String {
        let path = directory.file("reactiond.yaml")
        guard !FileManager.default.fileExists(atPath: path) else { return path }
        try directory.write(
            "reactiond.yaml",
            """
            postgres:
              conninfo: "\(postgres.conninfo(database: database))"
            redis:
              url: "\(redisDeployment.url)"
            clickhouse:
              url: "\(clickHouse.url)"
              database: "\(clickHouseDatabase)"
              timeout: 2s
              user: "\(clickHouse.user)"
              password: "\(clickHouse.password)"

            """)
        // A password in a file that others can read is not taken.
        try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
        return path
    }

    /// Runs a command of the agent to its end and returns what it printed.
    @discardableResult
    public func reactiond(_ command: String, _ arguments: String...) async throws -> String {
        try await reactiond(command, arguments)
    }

    /// - Parameter wrapper: a program that runs it, with its arguments.
    @discardableResult
    public func reactiond(
        _ command: String, _ arguments: [String], under wrapper: [String] = []
    ) async throws -> String {
        try await run(
            wrapper + [Self.reactiondPath, command, "--config", configurationFile()] + Self.patience(command)
                + arguments)
    }

    /// An agent that takes over waits for the deadline of the one that was killed, so it is short. A command has time.
    private static func patience(_ command: String) -> [String] {
        command == "run" ? [] : ["--set", "clickhouse.timeout=60s"]
    }

    /// A path of the test's own.
    public func path(_ name: String) -> String { directory.file(name) }

    /// Arguments of an agent that compares no table by itself, which would get into a measurement.
    public static let withoutMatches = ["--set", "match.full_interval=0s", "--set", "match.recent_interval=0s"]

    public func startAgent(_ arguments: [String] = []) throws -> ServerProcess {
        try start("run", arguments, log: "reactiond.log")
    }

    /// Starts a command of the agent.
    public func start(_ command: String, _ arguments: [String] = [], log: String = "command.log") throws
        -> ServerProcess
    {
        try ServerProcess(
            [Self.reactiondPath, command, "--config", configurationFile()] + Self.patience(command) + arguments,
            logPath: directory.file(log))
    }

    public func agentLog() -> String {
        (try? String(contentsOfFile: directory.file("reactiond.log"), encoding: .utf8)) ?? ""
    }

    // MARK: What a test asks

    /// Waits until every event that is committed now is confirmed and applied.
    public func drained(_ session: PostgresConnection, within limit: Duration = .seconds(180)) async throws {
        try await eventually(within: limit, "the mirror is level with the outbox") {
            try session.value("SELECT events_above_floor FROM reactions.mirror_status") == "0"
        }
    }

    public func clickHouseRows(_ sql: String) throws -> [[String]] {
        try clickHouse.query(sql.replacing("{db}", with: clickHouseDatabase))
            .split(separator: "\n").map { $0.split(separator: "\t", omittingEmptySubsequences: false).map(String.init) }
    }

    /// A counter of `reactions.stats`, of this session's or of all sessions' since the server started.
    public func counter(_ name: String, _ session: PostgresConnection) throws -> Int {
        Int(try session.value("SELECT value FROM reactions.stats WHERE name = '\(name)'") ?? "") ?? -1
    }
}

/// Milliseconds that the body takes.
public func milliseconds(_ body: () throws -> Void) rethrows -> Double {
    let start = ContinuousClock.now
    try body()
    let parts = (ContinuousClock.now - start).components
    return Double(parts.seconds) * 1000 + Double(parts.attoseconds) / 1e15
}
