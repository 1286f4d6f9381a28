import ArgumentParser
import Foundation
import Pipeline
import TestSupport

/// The agent: draining a backlog beside COPY piped into clickhouse-client, the lag of live writes, memory, and the cost of being idle.
struct Mirror: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "How fast is the mirror, and what does it cost?")

    @OptionGroup var options: BenchOptions

    enum Part: String, ExpressibleByArgument, CaseIterable {
        case backlog
        case lag
        case idle
        case growth
    }

    @Option(help: ArgumentHelp("Measure only these parts.", valueName: "part"))
    var only: [Part] = Part.allCases

    private var rounds: Int { options.short ? 1 : 5 }
    private var backlog: Int { options.short ? 20_000 : 1_000_000 }
    private var sizes: [Int] { options.short ? [2_000, 20_000] : [100_000, 1_000_000, 5_000_000] }
    private var lagSeconds: Int { options.short ? 2 : 30 }
    /// CPU time is counted in hundredths of a second.
    private var idleSeconds: Int { options.short ? 2 : 60 }
    private var idleRounds: Int { options.short ? 1 : 3 }

    private static let liveRate = 2_000
    private static let eventsPerTransaction = 10_000

    func run() async throws {
        var report = Report()
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"],
            configuration: [
                "shared_buffers": options.short ? "64MB" : "1GB", "max_wal_size": "8GB", "fsync": "on",
                "full_page_writes": "on",
            ])
        let site = try await MirrorSite.make(postgres: postgres, waitsForAge: !options.short)
        report.note("One database, one agent, Unix socket to PostgreSQL and Redis, loopback to ClickHouse.")

        if only.contains(.backlog) { try await drainBeside(site, &report) }
        if only.contains(.lag) { try await liveLag(site, &report) }
        if only.contains(.idle) { try await idle(site, &report) }
        if only.contains(.growth) { try await growth(site, &report) }
        report.end()
    }

    // MARK: A full outbox

    private func drainBeside(_ site: MirrorSite, _ report: inout Report) async throws {
        var agent: [Drain] = []
        var pipe: [Double] = []
        for _ in 0..<rounds {
            try site.fill(backlog, perTransaction: Self.eventsPerTransaction)
            // The pipe first: it leaves the outbox as it is.
            pipe.append(try await site.pipe())
            agent.append(try await site.drain())
        }
        report.title("\(backlog) events from a full outbox into three tables, \(rounds) rounds in turn")
        func row(_ name: String, _ seconds: [Double], _ what: String) -> [String] {
            [
                name, number(median(seconds), 2), number(seconds.min() ?? .nan, 2), number(seconds.max() ?? .nan, 2),
                number(Double(backlog) / median(seconds), 0), what,
            ]
        }
        report.table(
            ["contender", "median s", "least s", "most s", "events/s", "what it is"],
            [
                row(
                    "reactiond", agent.map(\.seconds), "from the start of the process until the last event is finished"),
                row(
                    "pipe", pipe,
                    "psql COPY (SELECT …) TO STDOUT | clickhouse-client INSERT, table after table, the same rows"),
            ])
        cpuTable(agent, &report)
        try report.figure("mirror_vs_pipe", median(pipe) / median(agent.map(\.seconds)))
    }

    private func cpuTable(_ drains: [Drain], _ report: inout Report) {
        let names = drains.first?.cpu.map(\.name) ?? []
        report.table(
            ["CPU time of a drain", "median s"],
            names.indices.map { index in [names[index], number(median(drains.map { $0.cpu[index].seconds }), 2)] })
    }

    // MARK: Live writes

    private func liveLag(_ site: MirrorSite, _ report: inout Report) async throws {
        let agent = try await site.startAgent()
        defer { agent.stop() }
        let lag = try await site.lag(eventsPerSecond: Self.liveRate, seconds: lagSeconds)
        report.title("\(Self.liveRate) events/s, one per transaction, for \(lagSeconds) s")
        report.table(
            ["lag", "at most ms"],
            [("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)].map { name, share in
                [name, lag.quantile(share).map(String.init) ?? "-"]
            })
        report.note("From the write, just before its commit, until ClickHouse has confirmed; \(lag.total) events.")
        guard let p99 = lag.quantile(0.99) else { throw BenchmarkError("no lag was measured") }
        try report.figure("lag_p99_ms", Double(p99))
    }

    // MARK: Idle

    private func idle(_ site: MirrorSite, _ report: inout Report) async throws {
        func percent(_ seconds: Double) -> Double { 100 * seconds / Double(idleSeconds) }
        var ofAgent: [Double] = []
        var ofPostgres: [Double] = []
        var alone: [Double] = []
        // In turn: autovacuum comes when it likes, after the set-up for instance.
        for _ in 0..<idleRounds {
            let agent = try await site.startAgent()
            try await site.asleep()
            let before = (agent: cpuSeconds(agent.pid), postgres: cpuSecondsOfTree(site.postgres.process.pid))
            try await Task.sleep(for: .seconds(idleSeconds))
            ofAgent.append(percent(cpuSeconds(agent.pid) - before.agent))
            ofPostgres.append(percent(cpuSecondsOfTree(site.postgres.process.pid) - before.postgres))
            agent.stop()
            let aloneBefore = cpuSecondsOfTree(site.postgres.process.pid)
            try await Task.sleep(for: .seconds(idleSeconds))
            alone.append(percent(cpuSecondsOfTree(site.postgres.process.pid) - aloneBefore))
        }

        report.title("Idle for \(idleSeconds) s, median of \(idleRounds)")
        report.table(
            ["what", "percent of a core"],
            [
                ["reactiond", number(median(ofAgent), 3)],
                ["all processes of PostgreSQL, with reactiond", number(median(ofPostgres), 3)],
                ["the same without it", number(median(alone), 3)],
            ])
        try report.figure("agent_idle_cpu", max(median(ofAgent) + median(ofPostgres) - median(alone), 0))
    }

    // MARK: Growth

    private func growth(_ site: MirrorSite, _ report: inout Report) async throws {
        var rows: [[String]] = []
        var lines: [Chart.Line] = []
        var largest = 0
        for (name, perTransaction) in [
            ("transactions of \(Self.eventsPerTransaction)", Self.eventsPerTransaction), ("one transaction", Int.max),
        ] {
            var points: [(x: Double, y: Double)] = []
            for size in sizes {
                try site.fill(size, perTransaction: min(perTransaction, size))
                let drain = try await site.drain()
                largest = max(largest, drain.peakKilobytes)
                points.append((Double(size), drain.seconds))
                rows.append([
                    name, String(size), number(drain.seconds, 2), number(Double(size) / drain.seconds, 0),
                    number(Double(drain.peakKilobytes) / 1024, 1),
                ])
            }
            lines.append(Chart.Line(name: name, points: points))
        }
        report.title("Growth of the backlog")
        report.table(["backlog written in", "events", "seconds", "events/s", "peak memory MiB"], rows)
        try report.figure("agent_rss_mb", Double(largest) / 1024)
        let chart = Chart(
            title: "Draining a backlog: linear", xLabel: "events", yLabel: "seconds", lines: lines)
        if let directory = options.charts { try chart.write(to: directory + "/mirror.svg") }
    }
}

func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return sorted.isEmpty ? .nan : sorted[sorted.count / 2]
}
