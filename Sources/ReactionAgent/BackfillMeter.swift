public import PostgresSource

/// The line that shows how far a backfill is, from what its progress says as time passes.
public struct BackfillMeter: Sendable {
    private var version: Int64?
    private var meter = ProgressMeter()

    public init() {}

    public mutating func line(_ report: BackfillReport, now: Duration) -> String {
        if version != report.version { meter = ProgressMeter() }
        version = report.version
        var parts = meter.parts(done: report.blocksRead, of: report.blocks, rows: report.rows, now: now)
        if report.skippedRows > 0 { parts.append("\(ProgressMeter.grouped(report.skippedRows)) skipped") }
        if report.state != "reading" {
            parts.append(report.state)
        } else if let left = meter.timeLeft {
            parts.append("\(left) left")
        }
        if let error = report.error { parts.append("error: \(error)") }
        return report.entityType + "  " + parts.joined(separator: "  ")
    }
}
