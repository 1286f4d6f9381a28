public import PostgresSource

/// Rate and time left of a backfill, from what its progress says as time passes; and the line that shows them.
public struct BackfillMeter: Sendable {
    private struct Sample {
        var time: Duration
        var blocks: Int64
        var rows: Int64
    }

    /// Over which the rate is taken.
    static let window: Duration = .seconds(10)
    static let barWidth = 24

    private var version: Int64?
    private var samples: [Sample] = []

    public init() {}

    public mutating func line(_ report: BackfillReport, now: Duration) -> String {
        if version != report.version { samples = [] }
        version = report.version
        samples.append(Sample(time: now, blocks: report.blocksRead, rows: report.rows))
        while samples.count > 2, now - samples[1].time > Self.window { samples.removeFirst() }

        let fraction = report.blocks == 0 ? 1 : Double(report.blocksRead) / Double(report.blocks)
        let filled = Int(fraction * Double(Self.barWidth))
        let bar = String(repeating: "#", count: filled) + String(repeating: "-", count: Self.barWidth - filled)
        var parts = ["[\(bar)] \(Int(fraction * 100)) %", "\(Self.grouped(report.rows)) rows"]
        if let rate { parts.append("\(Self.grouped(Int64(rate.rows))) rows/s") }
        if report.skippedRows > 0 { parts.append("\(Self.grouped(report.skippedRows)) skipped") }
        if report.state != "reading" {
            parts.append(report.state)
        } else if let rate, rate.blocks > 0 {
            parts.append("\(Self.time(Double(report.blocks - report.blocksRead) / rate.blocks)) left")
        }
        if let error = report.error { parts.append("error: \(error)") }
        return report.entityType + "  " + parts.joined(separator: "  ")
    }

    /// Per second; nil as long as nothing can be said.
    private var rate: (blocks: Double, rows: Double)? {
        guard let first = samples.first, let last = samples.last, last.time - first.time >= .seconds(1) else {
            return nil
        }
        let seconds = (last.time - first.time) / .seconds(1)
        return (Double(last.blocks - first.blocks) / seconds, Double(last.rows - first.rows) / seconds)
    }

    private static func time(_ seconds: Double) -> String {
        let seconds = Int(min(seconds.rounded(.up), 359_999))
        func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return seconds < 3600
            ? "\(seconds / 60):\(two(seconds % 60))"
            : "\(seconds / 3600):\(two(seconds / 60 % 60)):\(two(seconds % 60))"
    }

    private static func grouped(_ number: Int64) -> String {
        var digits = String(number)
        var index = digits.endIndex
        while digits.distance(from: digits.startIndex, to: index) > 3 {
            index = digits.index(index, offsetBy: -3)
            digits.insert(",", at: index)
        }
        return digits
    }
}
