import ArgumentParser
import Foundation
import TestSupport

/// Writes of one reaction per transaction, durable, beside the plain table and the ways to capture it by hand.
struct Writes: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "How fast are writes?")

    @OptionGroup var options: BenchOptions

    private static let clients = 16

    private var seconds: Int { options.short ? 1 : 3 }
    private var rounds: Int { options.short ? 1 : 5 }

    func run() async throws {
        var report = Report()
        let rows = options.short ? 10_000 : 1_000_000
        let users = options.short ? 200 : 5_000
        let site = try await WriteSite(rows: rows, users: users)
        report.note("\(rows) rows of \(users) users in each table, whose maps are in Redis; the agent runs throughout")

        var before: [String: Int] = [:]
        for way in Way.allCases { if let table = way.table { before[table] = try site.rows(in: table) } }
        let written = Counts()

        try await sideBySide(site, written, &report)
        try await growth(site, written, &report)
        try await checkAnswers(site, written, before)
        report.end()
    }

    // MARK: Side by side

    private func sideBySide(_ site: WriteSite, _ written: Counts, _ report: inout Report) async throws {
        let contenders = Way.allCases.map { way in
            LoadContender(name: way.name, what: way.what) {
                let before = try WriteCosts.now(site)
                let outcome = try await write(way, clients: Self.clients, site, written)
                written.costs.add(
                    way, from: before, to: try WriteCosts.now(site), reactions: outcome.times.values.count)
                return outcome
            }
        }
        let results = try await measureLoadInTurn(contenders, rounds: rounds)
        report.title(
            "\(Self.clients) clients (pgbench, 2 threads), one reaction per transaction, synchronous_commit = on")
        report.table(contenders, results)
        let costs = written.costs.table(Way.allCases)
        report.table(costs.columns, costs.rows)
        func throughput(_ way: Way) -> Double { results[way.name]?.throughput ?? .nan }
        try report.figure("capture_vs_plain", throughput(.attached) / throughput(.plain))
        try report.figure("react_vs_insert", throughput(.react) / throughput(.plain))
        try report.figure("react_attached_vs_insert", throughput(.reactAttached) / throughput(.plain))
        try report.figure("notify_vs_plain", throughput(.notify) / throughput(.plain))
        try report.figure("trigger_vs_plain", throughput(.trigger) / throughput(.plain))
    }

    private func write(
        _ way: Way, clients: Int, _ site: WriteSite, _ written: Counts
    ) async throws -> Pgbench.Outcome {
        written.runs += 1
        let pgbench = Pgbench(stack: site.stack, clients: clients, seconds: seconds, seed: written.runs)
        let outcome = try await pgbench.run(way.script(site))
        written.transactions[way.name, default: 0] += outcome.times.values.count
        // In no one's time: what is behind is not a part of the next contender's.
        try await site.settle()
        return outcome
    }

    // MARK: Growth

    private func growth(_ site: WriteSite, _ written: Counts, _ report: inout Report) async throws {
        let clients = options.short ? [1, 16] : [1, 2, 4, 8, 16, 32, 64]
        let ways = [Way.plain, .attached, .react]
        var lines = ways.map { Chart.Line(name: $0.name, points: []) }
        var rows: [[String]] = []
        for clients in clients {
            var row = [String(clients)]
            for (index, way) in ways.enumerated() {
                let outcome = try await write(way, clients: clients, site, written)
                lines[index].points.append((x: Double(clients), y: outcome.throughput))
                row.append(number(outcome.throughput, 0))
            }
            rows.append(row)
        }
        report.title("Growth: reactions per second with more and more clients")
        report.table(["clients"] + ways.map(\.name), rows)
        let chart = Chart(title: "Writing one reaction", xLabel: "clients", yLabel: "per second", lines: lines)
        if let directory = options.charts { try chart.write(to: directory + "/writes.svg") }
    }

    // MARK: Answers

    private func checkAnswers(_ site: WriteSite, _ written: Counts, _ before: [String: Int]) async throws {
        for way in Way.allCases {
            guard let table = way.table else { continue }
            let expected = Way.allCases.filter { $0.table == table }.reduce(0) { $0 + written[$1] }
            let added = try site.rows(in: table) - (before[table] ?? 0)
            try check(added == expected, "\(expected) transactions have added \(added) rows to \(table)")
        }
        try site.checkMirror("Image", events: written[.attached] + written[.reactAttached])
        try site.checkMirror("Post", events: written[.react])
        try site.checkServed("Image", from: "ImageReaction")
        try site.checkServed("Post")
        let kept = Int(try site.session.value("SELECT count(*) FROM trigger_outbox") ?? "")
        try check(kept == written[.trigger], "the trigger has kept \(kept ?? -1) of \(written[.trigger]) rows")
    }
}

/// How many transactions of each way have been committed, in how many runs, and what they have cost.
private final class Counts {
    var runs = 0
    var costs = WriteCosts()
    var transactions: [String: Int] = [:]

    subscript(_ way: Way) -> Int { transactions[way.name] ?? 0 }
}
