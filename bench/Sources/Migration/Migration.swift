import ArgumentParser
import TestSupport

/// A table's whole way, under an application that reads and writes all the while.
struct Migration: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migration",
        abstract: "Takes a live table through every phase, back once, and into the archive; counts what was lost.")

    @OptionGroup var options: BenchOptions

    @Option(help: "Statements per second of the application, a tenth of them writes.")
    var rate = 400

    @Option(help: "Rows that the table has at the beginning (default: 2000000, in the short form 20000).")
    var rows: Int?
    /// Of each phase at least.
    private var seconds: Double { options.short ? 1 : 10 }

    func run() async throws {
        var report = Report()
        let rows = rows ?? (options.short ? 20_000 : 2_000_000)
        report.title("\(rows) rows of \"ImageReaction\", an application of \(rate) statements per second")
        let site = try await MigrationSite(rows: rows)
        let application = try site.makeApplication()
        var timeline = Timeline(application)
        application.start(rate: rate)
        try await timeline.watch(seconds, "the application with its own SQL")

        try site.attach()
        try site.startAgent()
        try timeline.note("attached; the agent brings the rows over")
        try await site.awaitBackfill()
        try timeline.note("every row is in ClickHouse, and sealed")
        report.note(try await site.stack.reactiond("match"))
        try timeline.note("matched")

        timeline.flip(try await site.advance())
        try timeline.note("dual_read")
        application.move { $0.readsByFunctions = true }
        try await timeline.watch(seconds, "the application reads by functions, a part is compared")
        timeline.flip(try await site.advance())
        try timeline.note("switch_reads")
        try await timeline.watch(seconds, "reads come from Redis")
        application.move { $0.writesByFunctions = true }
        try await timeline.watch(seconds, "the application writes by functions")

        try site.acknowledge()
        timeline.flip(try await site.advance())
        try timeline.note("stop_writes; by its own SQL the application would now get: \(try site.refusal())")
        try await timeline.watch(seconds / 2, "only the outbox is written")
        site.killAgent()
        try timeline.note("the agent was killed with -9")
        try site.startAgent()
        try await timeline.watch(seconds / 2, "the agent started again")
        timeline.flip(try site.rollback())
        try timeline.note("rolled back to \(try site.phase); the table has what it had missed")
        report.note(try await site.stack.reactiond("match"))
        try await timeline.watch(seconds, "matched; the table is written again")
        timeline.flip(try await site.advance())
        try timeline.note("stop_writes again")
        try await timeline.watch(seconds, "only the outbox is written")
        report.note(try await site.archive())
        try timeline.note("\(try site.phase): \(try site.remains())")
        try await timeline.watch(seconds, "without the table")

        let expected = application.finish()
        try await site.stack.drained(site.session)
        let ledger = try MigrationLedger(expected, site: site)
        let record = try application.record()
        report.title("\(ledger.reactions) reactions, \(record.reads) reads and \(record.writes.count) writes later")
        timeline.print(report)
        let wrong = record.wrongReads + ledger.wrongReads
        for line in wrong.prefix(10) { report.note("wrong read: \(line)") }
        report.table(
            ["at the end", ""],
            [
                ["events lost", String(ledger.lost)], ["events doubled", String(ledger.doubled)],
                ["wrong reads after the grace of \(Int(ApplicationClient.grace)) s", String(wrong.count)],
                ["reads that were behind at first", "\(record.lateReads), at most \(number(record.longestLate, 2)) s"],
                ["reads that no server answered in time, and done again", String(record.unknownReads)],
                ["statements done again after 40001", String(record.retried)],
                ["longest write stall at a flip", "\(number(timeline.longestStall(record.writes), 1)) ms"],
            ])
        try report.figure("migration_lost", Double(ledger.lost))
        try report.figure("migration_doubled", Double(ledger.doubled))
        try report.figure("migration_wrong_reads", Double(wrong.count))
        try report.figure("migration_stall_ms", timeline.longestStall(record.writes))
        report.end()
        guard ledger.lost + ledger.doubled + wrong.count == 0 else { throw ExitCode.failure }
    }
}
