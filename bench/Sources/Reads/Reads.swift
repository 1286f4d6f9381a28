import ArgumentParser
import Foundation
import TestSupport

/// Reads of one page of 100 entities, warm, beside the table, redis_fdw's way and the floor.
struct Reads: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "How fast are reads?")

    @OptionGroup var options: BenchOptions

    enum Part: String, ExpressibleByArgument, CaseIterable {
        case oneClient = "one-client"
        case manyClients = "many-clients"
        case firstRead = "first-read"
        case growth
    }

    @Option(help: ArgumentHelp("Measure only these parts.", valueName: "part"))
    var only: [Part] = Part.allCases

    /// Rows of the table.
    private var rows: Int { options.short ? 24_000 : 3_000_000 }
    private var calls: Int { options.short ? 100 : 4_000 }
    private var viewCount: Int { options.short ? 20 : 400 }

    func run() async throws {
        var report = Report()
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"],
            configuration: ["shared_buffers": options.short ? "64MB" : "1GB", "max_wal_size": "8GB"])
        let stack = try await Stack.make(postgres: postgres)
        let site = try await ReadSite.make(stack, users: rows / ReadSite.reactionsPerUser)
        report.note(
            "\(rows) reactions of \(site.users) users in \"ImageReaction\"; pages of \(PageView.entities) entities")

        if only.contains(.oneClient) { try oneClient(site, &report) }
        if only.contains(.manyClients) { try await manyClients(site, &report) }
        if only.contains(.firstRead) { try await firstReads(site, &report) }
        if only.contains(.growth) { try await growth(site, &report) }
        report.end()
    }

    // MARK: One client

    private func oneClient(_ site: ReadSite, _ report: inout Report) throws {
        let redis = try RawRedis(site.stack)
        let reads = try PageReads(site)
        let views = site.views(viewCount)
        try reads.warmAndCheck(views)
        let encoding = try redis.encoding(of: views[0].user)

        let hmgets = views.map(redis.hmget)
        let hgetalls = views.map(redis.hgetall)
        let select1 = try PreparedStatement(site.session, "SELECT 1")
        let buildIDs = try PreparedStatement(site.session, ReadSite.buildIDs)
        let returnRows = try PreparedStatement(site.session, ReadSite.returnRows)
        func view(_ round: Int) -> PageView { views[round % views.count] }
        let contenders = [
            Contender(name: "select_1", what: "SELECT 1, prepared") { _ in try select1.run([]) { _ in } },
            Contender(name: "build_ids", what: "the statement that builds the page's ids, as the reads do") { round in
                try buildIDs.run([.bigint(view(round).user), .bigint(view(round).first)]) { _ in }
            },
            Contender(name: "return_rows", what: "the statement that returns the ids as 100 rows") { round in
                try returnRows.run([.bigint(view(round).user), .bigint(view(round).first)]) { _ in }
            },
            Contender(name: "hmget", what: "hiredis: HMGET of the ids, hash of type \(encoding)") { round in
                try redis.run(hmgets[round % hmgets.count])
            },
            Contender(name: "hgetall", what: "hiredis: HGETALL of that hash") { round in
                try redis.run(hgetalls[round % hgetalls.count])
            },
            Contender(name: "flags_many", what: "flags_many, the page's ids built in SQL") { round in
                try reads.many.run([.bigint(view(round).user), .bigint(view(round).first)]) { _ in }
            },
            Contender(name: "flags_many_param", what: "flags_many, the page's ids as a binary parameter") { round in
                try reads.parameter.run([.bigint(view(round).user), .bigints(Array(view(round).ids))]) { _ in }
            },
            Contender(name: "per_row", what: "flags() in each of the page's 100 rows") { round in
                try reads.perRow.run([.bigint(view(round).user), .bigint(view(round).first)]) { _ in }
            },
            Contender(name: "table", what: "the table, by the index that fits exactly") { round in
                try reads.table.run([.bigint(view(round).user), .bigint(view(round).first)]) { _ in }
            },
            Contender(name: "c_hgetall", what: "HGETALL by a C function over a kept connection, joined in SQL") {
                round in
                try reads.runHash(view(round)) { _ in }
            },
        ]
        let samples = try measureInTurn(contenders, calls: calls)
        report.title("One client, Unix socket")
        report.table(contenders, samples)
        func median(_ name: String) -> Double { samples[name]?.median ?? .nan }
        try report.figure("read_vs_floor", median("flags_many") / (median("build_ids") + median("hmget")))
        try report.figure("read_vs_table", median("flags_many") / median("table"))
        try report.figure("per_row_vs_array", median("per_row") / median("flags_many"))
        try report.figure("read_vs_fdw", median("flags_many") / median("c_hgetall"))
        report.note("read_vs_fdw: against c_hgetall; no build of redis_fdw is packaged for Debian 12.")
        report.note(
            "A map of \(ReadSite.reactionsPerUser) reactions takes \(try redis.memory(of: views[0].user)) bytes.")
    }

    // MARK: 16 clients

    private func manyClients(_ site: ReadSite, _ report: inout Report) async throws {
        let pgbench = Pgbench(stack: site.stack, clients: 16, seconds: options.short ? 1 : 10)
        func script(_ statement: String) -> String {
            """
            \\set user random(1, \(site.users))
            \\set first random(1, \(ReadSite.lastFirst))
            \(statement.replacing("$1", with: ":user").replacing("$2", with: ":first"))

            """
        }
        let contenders = [
            LoadContender(name: "flags_many", what: "flags_many of 100 ids, any user") {
                try await pgbench.run(script(ReadSite.readReactions))
            },
            LoadContender(name: "table", what: "the table, by the index that fits exactly") {
                try await pgbench.run(script(ReadSite.readTable))
            },
        ]
        // Every map is filled once, as in an application that runs for longer than a benchmark.
        try site.session.execute(
            "SELECT count(f) FROM generate_series(1, \(site.users)) u, reactions.flags_many(u, ARRAY[1::bigint]) f")
        let results = try await measureLoadInTurn(contenders, rounds: options.short ? 1 : 5)
        try site.checkAgainstTable(users: 100)
        report.title("16 clients (pgbench, 2 threads)")
        report.table(contenders, results)
        try report.figure(
            "reads_16_clients",
            (results["flags_many"]?.throughput ?? .nan) / (results["table"]?.throughput ?? .nan))
        try backends(site, &report)
    }

    /// What a backend holds after it has read: its connection to Redis and its memory.
    private func backends(_ site: ReadSite, _ report: inout Report) throws {
        let view = site.views(1)[0]
        func reader(_ sql: String) throws -> (session: PostgresConnection, bytes: Int) {
            let session = try site.stack.connect()
            let statement = try PreparedStatement(session, sql)
            for _ in 0..<10 { try statement.run([.bigint(view.user), .bigint(view.first)]) { _ in } }
            return (session, try privateMemory(of: session.backendPID))
        }
        let clientsBefore = try site.redisClients()
        let plain = try (0..<16).map { _ in try reader(ReadSite.readTable) }
        let ours = try (0..<16).map { _ in try reader(ReadSite.readReactions) }
        func median(_ values: [Int]) -> Double { Double(values.sorted()[values.count / 2]) / 1024 }
        report.table(
            ["backend that reads", "connections to Redis", "private memory KiB"],
            [
                ["the table", "0", number(median(plain.map(\.bytes)), 0)],
                [
                    "by flags_many", number(Double(try site.redisClients() - clientsBefore) / 16, 0),
                    number(median(ours.map(\.bytes)), 0),
                ],
            ])
    }

    // MARK: First read

    private func firstReads(_ site: ReadSite, _ report: inout Report) async throws {
        let unloaded = try await PostgresServer.start()
        let other = try await Stack.make(postgres: unloaded, redis: site.stack.redis, clickHouse: site.stack.clickHouse)
        let small = try await ReadSite.make(other, users: 20)
        for view in small.views(20) { _ = try small.session.query(small.literal(view)) }
        let view = small.views(1)[0]
        func connected(_ stack: Stack, _ sql: String) throws { try stack.connect().execute(sql) }
        let contenders = [
            Contender(name: "connect_unloaded", what: "connect, SELECT 1; library not preloaded") { _ in
                try connected(other, "SELECT 1")
            },
            Contender(name: "read_unloaded", what: "connect, flags_many of 100 ids; library not preloaded") { _ in
                try connected(other, small.literal(view))
            },
            Contender(name: "connect_preloaded", what: "connect, SELECT 1; shared_preload_libraries") { _ in
                try connected(site.stack, "SELECT 1")
            },
            Contender(name: "read_preloaded", what: "connect, flags_many of 100 ids; shared_preload_libraries") { _ in
                try connected(site.stack, site.literal(view))
            },
        ]
        let samples = try measureInTurn(contenders, calls: options.short ? 20 : 400, inARow: 5)
        report.title("First read of a connection")
        report.table(contenders, samples)
        func median(_ name: String) -> Double { samples[name]?.median ?? .nan }
        try report.figure("first_read_ms", (median("read_unloaded") - median("connect_unloaded")) / 1000)
        try report.figure("first_read_preloaded_ms", (median("read_preloaded") - median("connect_preloaded")) / 1000)
    }

    // MARK: Growth

    private func growth(_ site: ReadSite, _ report: inout Report) async throws {
        // Not the session that has loaded the contender's library.
        let session = try site.stack.connect()
        let sizes = options.short ? [10, 1_000] : [10, 1_000, 100_000, 2_000_000]
        let table = "GrowthReaction"
        try session.execute("CREATE TABLE \"\(table)\" (LIKE \"ImageReaction\" INCLUDING DEFAULTS)")
        for (user, size) in sizes.enumerated() {
            try session.execute(
                """
                INSERT INTO "\(table)" ("userId", "imageId", reaction)
                SELECT \(user + 1), k * 2, 'Like' FROM generate_series(1, \(size)) k
                """)
        }
        try ReadSite.index(session, table)
        try session.execute(
            """
            SELECT reactions.attach('"\(table)"', 'Growth', 'userId', 'imageId', 'reaction', 'createdAt',
                phase => 'switch_reads', unknown_kinds => 'skip')
            """)
        let many = try PreparedStatement(
            session, "SELECT entity_id, flags FROM reactions.flags_many($1::bigint, \(ReadSite.pageIDs), 'Growth')"
        )
        let direct = try PreparedStatement(
            session, ReadSite.readTable.replacing("ImageReaction", with: table))
        var contenders: [Contender] = []
        for (index, size) in sizes.enumerated() {
            let user = Int64(index + 1)
            let first = Int64(max(size - PageView.entities, 1))
            let expected = (first..<first + Int64(PageView.entities)).filter { $0 % 2 == 0 && $0 <= size * 2 }.count
            contenders.append(
                Contender(name: "flags_many_\(size)", what: "flags_many, user with \(size) reactions") { _ in
                    let found = try many.run([.bigint(user), .bigint(first)]) { rows in
                        (0..<rows.count).count { rows.integer($0, 1) == 1 }
                    }
                    try check(found == expected, "\(found) reactions instead of \(expected)")
                })
            contenders.append(
                Contender(name: "table_\(size)", what: "the table, user with \(size) reactions") { _ in
                    let found = try direct.run([.bigint(user), .bigint(first)]) { $0.count }
                    try check(found == expected, "\(found) reactions instead of \(expected)")
                })
        }
        let samples = try measureInTurn(contenders, calls: options.short ? 40 : 1_000)
        report.title("Growth: a page of users with more and more reactions")
        report.table(contenders, samples)
        func line(_ name: String) -> Chart.Line {
            Chart.Line(
                name: name, points: sizes.map { (x: Double($0), y: samples["\(name)_\($0)"]?.median ?? .nan) })
        }
        let chart = Chart(
            title: "Reading 100 entities: flat", xLabel: "reactions of the user", yLabel: "median µs",
            lines: [line("flags_many"), line("table")])
        if let directory = options.charts { try chart.write(to: directory + "/reads.svg") }
    }
}
