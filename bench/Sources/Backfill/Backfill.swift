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
        var pipe: [Double] = []
        var pipeOfAll: [Double] = []
        for _ in 0..<rounds {
            pipe.append(try await site.pipe(into: ["entityMetricEvents"]))
            pipeOfAll.append(try await site.pipe(into: BackfillSite.tables))
            runs.append(try await site.backfill())
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
        try report.figure("backfill_vs_pipe", median(pipeOfAll) / median(runs.map(\.sealed)))
        try report.figure("backfill_rss_mb", Double(runs.map(\.peakKilobytes).max() ?? 0) / 1024)
        report.end()
    }
}
