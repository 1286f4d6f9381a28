import ArgumentParser
import TestSupport

/// The rows of an attached table on their way into ClickHouse, beside COPY piped into clickhouse-client.
struct Backfill: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "How fast is a table brought over, and what does it cost?")

    @OptionGroup var options: BenchOptions

    private var rounds: Int { options.short ? 1 : 3 }
    private var rows: Int { options.short ? 50_000 : 5_000_000 }

    func run() async throws {
        var report = Report()
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"],
            configuration: [
                "shared_buffers": options.short ? "64MB" : "1GB", "max_wal_size": "8GB", "fsync": "on",
                "full_page_writes": "on",
            ])
        let site = try await BackfillSite.make(postgres: postgres, rows: rows)
        var runs: [BackfillRun] = []
        var matches: [MatchRun] = []
        var pipe: [Double] = []
        var pipeOfAll: [Double] = []
        for _ in 0..<rounds {
            pipe.append(try await site.pipe(into: ["entityMetricEvents"]))
            pipeOfAll.append(try await site.pipe(into: MirrorRows.tables))
            runs.append(try await site.backfill())
            matches.append(try await site.match())
        }
        report.title("\(rows) rows of \"ImageReaction\", \(rounds) rounds in turn")
        func row(_ name: String, _ seconds: [Double], _ what: String) -> [String] {
            [
                name, number(median(seconds), 2), number(seconds.min() ?? .nan, 2), number(seconds.max() ?? .nan, 2),
                number(Double(rows) / median(seconds), 0), what,
            ]
        }
        report.table(
            ["contender", "median s", "least s", "most s", "rows/s", "what it is"],
            [
                row(
                    "backfill", runs.map(\.sealed),
                    "from the start of the agent until three tables are there and sealed"),
                row("backfill, read", runs.map(\.read), "the same until every row is in entityMetricEvents"),
                row("pipe", pipe, "psql COPY (SELECT …) TO STDOUT | clickhouse-client INSERT INTO entityMetricEvents"),
                row("pipe of three", pipeOfAll, "the same into the three tables, one after the other"),
            ])
        let names = runs.first?.cpu.map(\.name) ?? []
        report.table(
            ["CPU time of a backfill", "median s"],
            names.indices.map { index in [names[index], number(median(runs.map { $0.cpu[index].seconds }), 2)] })
        report.table(
            ["beside the pipe", "ratio"],
            [
                ["backfill, sealed ÷ pipe of three", number(median(pipeOfAll) / median(runs.map(\.sealed)), 3)],
                ["backfill, read ÷ pipe", number(median(pipe) / median(runs.map(\.read)), 3)],
                ["backfill, sealed ÷ pipe", number(median(pipe) / median(runs.map(\.sealed)), 3)],
            ])
        let stall = try await flips(site, report)
        let storage = try await storage(site, report)
        let load = try await databaseLoad(site, report)
        report.table(
            ["match of the table with ClickHouse", "median"],
            [
                ["seconds", number(median(matches.map(\.seconds)), 2)],
                ["rows/s", number(Double(rows) / median(matches.map(\.seconds)), 0)],
                ["peak memory of reactiond, MB", number(Double(matches.map(\.peakKilobytes).max() ?? 0) / 1024, 1)],
                [
                    "peak memory of one query in ClickHouse, MB",
                    number(matches.map(\.peakMegabytesOfClickHouse).max() ?? .nan, 0),
                ],
            ])
        try report.figure("match_rows_per_s", Double(rows) / median(matches.map(\.seconds)))
        try report.figure("match_rss_mb", Double(matches.map(\.peakKilobytes).max() ?? 0) / 1024)
        try report.figure("backfill_vs_pipe", median(pipeOfAll) / median(runs.map(\.sealed)))
        try report.figure("backfill_rss_mb", Double(runs.map(\.peakKilobytes).max() ?? 0) / 1024)
        try report.figure("flip_stall_ms", stall.duringFlips.p99 / 1e3)
        try report.figure("storage_vs_table", storage[0].ratio)
        try report.figure("storage_vs_table_18", storage[1].ratio)
        try report.figure("db_load_buffers_vs_table", load.ratio(\.buffers))
        try report.figure("db_load_wal_vs_table", load.ratio(\.walBytes))
        try report.figure("db_load_cpu_vs_table", load.ratio(\.cpuSeconds))
        report.end()
    }

    private func flips(_ site: BackfillSite, _ report: Report) async throws -> FlipStall.Outcome {
        let agent = try site.stack.startAgent()
        defer { agent.stop() }
        let stall = try await FlipStall(site: site, flips: options.short ? 4 : 40).run()
        report.title(
            "\(FlipStall.clients) writers while the phase is flipped; \(stall.retried) transactions were refused with 40001"
        )
        func row(_ name: String, _ samples: Samples) -> [String] {
            [
                name, String(samples.values.count), number(samples.median / 1e3, 2), number(samples.p99 / 1e3, 2),
                number(samples.quantile(1) / 1e3, 2),
            ]
        }
        report.table(
            ["transactions", "number", "median ms", "p99 ms", "most ms"],
            [
                row("writes during a flip", stall.duringFlips), row("writes between flips", stall.between),
                row("flips", stall.flips),
            ])
        return stall
    }

    private func storage(_ site: BackfillSite, _ report: Report) async throws -> [Storage] {
        let rows = options.short ? rows : 1_000_000
        var found: [Storage] = []
        for clickHouse in [try await ChdbServer.start(), site.clickHouse] as [any ClickHouseEndpoint] {
            found.append(try await Storage.measure(postgres: site.postgres, clickHouse: clickHouse, rows: rows))
        }
        report.title("\(rows) reactions on disk, merged")
        report.table(
            ["engine", "bytes per reaction in PostgreSQL", "in ClickHouse, three tables", "ratio"],
            found.map { [$0.engine, number($0.tableBytes, 1), number($0.mirrorBytes, 1), number($0.ratio, 3)] })
        return found
    }

    private func databaseLoad(_ site: BackfillSite, _ report: Report) async throws -> DatabaseLoad.Outcome {
        let load = DatabaseLoad(site: site, statements: options.short ? 400 : 20_000)
        let outcome = try await load.run()
        report.title(
            "\(outcome.statements) statements, 95 reads of 100 entities to 5 writes: what they cost PostgreSQL")
        func row(_ name: String, _ cost: DatabaseLoad.Cost) -> [String] {
            [name, number(cost.buffers, 0), number(cost.walBytes / 1024, 0), number(cost.cpuSeconds, 2)]
        }
        report.table(
            ["way", "shared buffers touched", "WAL kB", "CPU s"],
            [
                row("the table", outcome.onTable),
                row("stop_writes, the agent's sessions included", outcome.inStopWrites),
            ])
        return outcome
    }
}
