import ArgumentParser
import TestSupport

/// Counts of pages of posts beside the floor, the counters of the agent beside raw increments, and a mixed load on one hot post.
struct EntityCounts: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "counts", abstract: "How fast are counts, to read and to keep?")

    @OptionGroup var options: BenchOptions

    enum Part: String, ExpressibleByArgument, CaseIterable {
        case reads
        case counters
        case mixed
    }

    @Option(help: ArgumentHelp("Measure only these parts.", valueName: "part"))
    var only: [Part] = Part.allCases

    private var posts: Int { options.short ? 500 : 20_000 }
    private var calls: Int { options.short ? 100 : 4_000 }

    func run() async throws {
        var report = Report()
        if only.contains(.reads) { try await reads(&report) }
        if only.contains(.counters) { try await counters(&report) }
        if only.contains(.mixed) { try await mixed(&report) }
        report.end()
    }

    // MARK: A page

    private func reads(_ report: inout Report) async throws {
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"], configuration: ["shared_buffers": "256MB"])
        let site = try await CountSite.make(try await Stack.make(postgres: postgres), posts: posts)
        report.note("\(posts) posts, whose counts are in Redis; pages of \(CountSite.pagePosts)")
        let raw = try RawPipeline(site.stack)
        let pages = posts / CountSite.pagePosts
        func first(_ round: Int) -> Int64 { Int64(round % pages * CountSite.pagePosts + 1) }
        let commands = try (0..<pages).map { try RawPipeline.page(site, first($0)) }
        let read = try PreparedStatement(site.session, CountSite.read)
        let returnRows = try PreparedStatement(site.session, CountSite.returnRows)
        let buildIDs = try PreparedStatement(site.session, CountSite.buildIDs)
        for round in 0..<pages {
            try read.run([.bigint(first(round))]) { rows in
                try check(rows.count == CountSite.pagePosts * CountSite.kinds.count, "rows of a page")
                for row in 0..<rows.count {
                    let count = CountSite.count(rows.integer(row, 0), row % CountSite.kinds.count)
                    try check(rows.integer(row, 2) == count, "count of post \(rows.integer(row, 0))")
                }
            }
        }
        let contenders = [
            Contender(name: "build_ids", what: "the statement that builds the page's ids") { round in
                try buildIDs.run([.bigint(first(round))]) { _ in }
            },
            Contender(name: "return_rows", what: "the statement that returns a row for each of the ids and kinds") {
                round in try returnRows.run([.bigint(first(round))]) { _ in }
            },
            Contender(name: "pipeline", what: "hiredis: the page's 100 HMGETs in one pipeline") { round in
                try raw.run(commands[round % pages], replies: CountSite.pagePosts)
            },
            Contender(name: "counts", what: "counts of the page") { round in
                try read.run([.bigint(first(round))]) { _ in }
            },
        ]
        let samples = try measureInTurn(contenders, calls: calls)
        report.title("A page of counts, one client, Unix socket")
        report.table(contenders, samples)
        func median(_ name: String) -> Double { samples[name]?.median ?? .nan }
        try report.figure("counts_vs_floor", median("counts") / (median("return_rows") + median("pipeline")))
    }

    // MARK: Counters

    /// The agent's counters hold the users, too, and are right after a crash; what is beside it only adds.
    private func counters(_ report: inout Report) async throws {
        let events = options.short ? 20_000 : 1_000_000
        let posts = options.short ? 200 : 2_000
        var raw: [Double] = []
        /// By a stack of its own: lists are as long as their posts are old.
        func measure(_ body: (CounterSite) async throws -> CounterSite.Run) async throws -> [CounterSite.Run] {
            var runs: [CounterSite.Run] = []
            for _ in 1...(options.short ? 1 : 3) {
                let site = try await CounterSite.make(posts: posts)
                try await site.install()
                runs.append(try await body(site))
                try site.verify(events)
                raw.append(try site.increment(events))
            }
            return runs.sorted { $0.seconds < $1.seconds }
        }
        let counting = try await measure { try await $0.count(events) }
        let mirroring = try await measure { try await $0.mirrorAndCount(events) }
        raw.sort()
        report.title("\(events) events on \(posts) posts that are in Redis; medians")
        let (counted, mirrored, increments) = (counting.median, mirroring.median, raw[raw.count / 2])
        let rows: [(name: String, seconds: Double, cpu: CounterSite.Run?, what: String)] = [
            (
                "counting", counted.seconds, counted,
                "reactiond: from a backlog that ClickHouse has confirmed until the last event is counted"
            ),
            (
                "mirroring and counting", mirrored.seconds, mirrored,
                "reactiond: from the start of the process until the last event is in ClickHouse and counted"
            ),
            ("hincrby", increments, nil, "hiredis: an HINCRBY for each event, pipelined by the thousand"),
        ]
        report.table(
            ["contender", "seconds", "events/s", "CPU seconds", "what it is"],
            rows.map { row in
                let cpu = row.cpu?.cpu.map { "\($0.name) \(number($0.seconds, 2))" }.joined(separator: ", ") ?? ""
                return [row.name, number(row.seconds, 2), number(Double(events) / row.seconds, 0), cpu, row.what]
            })
        try report.figure("counters_vs_raw", increments / counted.seconds)
        try report.figure("counters_and_mirror_vs_raw", increments / mirrored.seconds)
    }

    // MARK: Mixed load

    private static let clients = 16

    /// Every operation waits for the disk, the agent mirrors and counts meanwhile, and one post takes half of the writes.
    private func mixed(_ report: inout Report) async throws {
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"],
            configuration: [
                "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "shared_buffers": "256MB",
                "max_wal_size": "8GB",
            ])
        let stack = try await Stack.make(postgres: postgres)
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Post')")
        let agent = try stack.startAgent(Stack.withoutMatches)
        defer { agent.stop(15) }
        let (users, posts) = options.short ? (500, 500) : (5_000, 2_000)
        let draw = """
            \\set user random(1, \(users))
            \\set hot random(1, 2)
            \\set other random(2, \(posts))
            \\set post CASE WHEN :hot = 1 THEN 1 ELSE :other END
            \\set flags random(0, 15)
            \\set first random(1, \(posts - CountSite.pagePosts))

            """
        let ids = "ARRAY(SELECT generate_series(:first, :first + \(CountSite.pagePosts - 1)))"
        // Any flags instead of those that the user has: nearly every write is one.
        let scripts = [
            Pgbench.Script(
                name: "set_flags", weight: 4, text: draw + "SELECT reactions.set_flags(:user, :post, :flags, 'Post');\n"
            ),
            Pgbench.Script(
                name: "flags_many", weight: 3,
                text: draw + "SELECT count(flags) FROM reactions.flags_many(:user, \(ids), 'Post');\n"),
            Pgbench.Script(
                name: "counts", weight: 2, text: draw + "SELECT count(count) FROM reactions.counts(\(ids), 'Post');\n"),
            Pgbench.Script(
                name: "reactors", weight: 1,
                text: draw + "SELECT count(*) FROM reactions.reactors(:post, page_size => 50, entity_type => 'Post');\n"
            ),
        ]
        try session.execute(
            "SELECT count(f) FROM generate_series(1, \(users)) u, reactions.flags_many(u, ARRAY[1::bigint], 'Post') f")
        let pgbench = Pgbench(stack: stack, clients: Self.clients, seconds: options.short ? 2 : 10)
        // As in an application that runs for longer than a benchmark: maps and counts are in Redis.
        _ = try await pgbench.run(scripts)
        let result = try await pgbench.run(scripts)
        report.title("\(Self.clients) clients, half of the writes on one post")
        report.table(
            ["operation", "calls", "median ms", "p99 ms"],
            zip(scripts, result.times).map { script, times in
                [
                    script.name, "\(times.values.count)", number(times.median / 1000, 2),
                    number(times.p99 / 1000, 2),
                ]
            })
        report.note("\(number(result.throughput, 0)) operations per second")
        try report.figure("operation_p99_ms", (result.times.map(\.p99).max() ?? .nan) / 1000)
        try await checkCounts(session, stack)
    }

    /// When everything is mirrored, the counts are those of the events.
    private func checkCounts(_ session: PostgresConnection, _ stack: Stack) async throws {
        try await stack.drained(session)
        let mirrored = try stack.clickHouseRows(
            "SELECT entityId, sum(metricValue) FROM {db}.entityMetricEvents GROUP BY entityId ORDER BY entityId LIMIT 1000"
        )
        let asked = mirrored.map { $0[0] }.joined(separator: ",")
        let counted = try session.query(
            "SELECT entity_id, sum(count) FROM reactions.counts('{\(asked)}', 'Post') GROUP BY 1 ORDER BY 1")
        try check(!mirrored.isEmpty && counted == mirrored, "counts after the load")
        let users = try stack.clickHouseRows(
            """
            SELECT uniqExact(userId) FROM (
                SELECT userId FROM {db}.entityMetricEvents WHERE entityId = 1 GROUP BY userId, metricType HAVING sum(metricValue) > 0)
            """)
        let asCounted = try session.value("SELECT reactions.unique_reactors(1, 'Post')")
        try check(asCounted == users.first?.first, "users of the hot post")
    }
}

extension [CounterSite.Run] {
    /// Of runs in the order of their time.
    fileprivate var median: CounterSite.Run { self[count / 2] }
}
