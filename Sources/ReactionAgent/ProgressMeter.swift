internal import Glibc

/// A bar with rate and time left, from samples that are taken as time passes.
public struct ProgressMeter: Sendable {
    private struct Sample {
        var time: Duration
        var done: Int64
        var rows: Int64
    }

    /// Over which the rate is taken.
    static let window: Duration = .seconds(10)
    static let barWidth = 24

    private var samples: [Sample] = []
    private var total: Int64 = 0
    private let unit: String

    /// - Parameter unit: what is counted, in the plural.
    public init(unit: String = "rows") {
        self.unit = unit
    }

    /// Bar, rows and rate.
    /// - Parameter done: of `total`, in whatever the work is measured in; the two may be rows.
    public mutating func parts(done: Int64, of total: Int64, rows: Int64, now: Duration) -> [String] {
        self.total = total
        samples.append(Sample(time: now, done: done, rows: rows))
        while samples.count > 2, now - samples[1].time > Self.window { samples.removeFirst() }
        let fraction = total <= 0 ? 1 : min(Double(done) / Double(total), 1)
        let filled = Int(fraction * Double(Self.barWidth))
        let bar = String(repeating: "#", count: filled) + String(repeating: "-", count: Self.barWidth - filled)
        var parts = ["[\(bar)] \(Int(fraction * 100)) %", "\(Self.grouped(rows)) \(unit)"]
        if let rate { parts.append("\(Self.grouped(Int64(rate.rows))) \(unit)/s") }
        return parts
    }

    /// Nil as long as nothing can be said.
    public var timeLeft: String? {
        guard let rate, rate.done > 0, let last = samples.last else { return nil }
        return Self.time(Double(max(total - last.done, 0)) / rate.done)
    }

    /// Per second; nil as long as nothing can be said.
    private var rate: (done: Double, rows: Double)? {
        guard let first = samples.first, let last = samples.last, last.time - first.time >= .seconds(1) else {
            return nil
        }
        let seconds = (last.time - first.time) / .seconds(1)
        return (Double(last.done - first.done) / seconds, Double(last.rows - first.rows) / seconds)
    }

    private static func time(_ seconds: Double) -> String {
        let seconds = Int(min(seconds.rounded(.up), 359_999))
        func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return seconds < 3600
            ? "\(seconds / 60):\(two(seconds % 60))"
            : "\(seconds / 3600):\(two(seconds / 60 % 60)):\(two(seconds % 60))"
    }

    static func grouped(_ number: Int64) -> String {
        var digits = String(number)
        var index = digits.endIndex
        while digits.distance(from: digits.startIndex, to: index) > 3 {
            index = digits.index(index, offsetBy: -3)
            digits.insert(",", at: index)
        }
        return digits
    }
}

/// Where the lines of a meter go: on a terminal each replaces the one before, elsewhere they follow one another, more rarely.
struct ProgressLines: Sendable {
    private static let refresh: Duration = .milliseconds(250)
    private static let report: Duration = .seconds(5)

    private let isTerminal = isatty(STDOUT_FILENO) == 1
    private let started = ContinuousClock.now

    var elapsed: Duration { .now - started }

    /// Until the next line. Shorter at first: a small table is done in less than a second.
    var pause: Duration {
        if isTerminal { return Self.refresh }
        return elapsed < Self.report ? .seconds(1) : Self.report
    }

    func print(_ lines: [String], isLast: Bool) {
        if isTerminal {
            // Back to the first column, and clear to the end of the line.
            Swift.print("\r\u{1B}[K" + lines.joined(separator: " | "), terminator: isLast ? "\n" : "")
        } else {
            for line in lines { Swift.print(line) }
        }
        fflush(nil)
    }
}
