import TestSupport

/// What happened when, with what the application did in between.
struct Timeline {
    private struct Entry {
        var at: Double
        var what: String
        var reads: Int
        var writes: Int
        var slowest: Double
        var duration: Double
    }

    private let application: Application
    private let start = microseconds()
    private var last = (time: microseconds(), reads: 0, writes: 0)
    private var entries: [Entry] = []
    private var flips: [(began: Double, ended: Double)] = []

    init(_ application: Application) { self.application = application }

    /// Lets the application work for a while.
    mutating func watch(_ seconds: Double, _ what: String) async throws {
        try await Task.sleep(for: .seconds(seconds))
        try note(what)
    }

    mutating func note(_ what: String) throws {
        let now = microseconds()
        let record = try application.record()
        let entry = Entry(
            at: (now - start) / 1e6, what: what, reads: record.reads - last.reads,
            writes: record.writes.count - last.writes,
            slowest: record.writes.filter { $0.ended > last.time }.map { $0.ended - $0.began }.max() ?? 0,
            duration: (now - last.time) / 1e6)
        last = (now, record.reads, record.writes.count)
        entries.append(entry)
        Report().note(Self.cells(entry).joined(separator: "  "))
    }

    mutating func flip(_ times: (began: Double, ended: Double)) { flips.append(times) }

    /// Milliseconds of the slowest write that was under way during a flip.
    func longestStall(_ writes: [ApplicationRecord.Write]) -> Double {
        let slowest = writes.filter { write in
            flips.contains { write.began <= $0.ended && write.ended >= $0.began }
        }
        return (slowest.map { $0.ended - $0.began }.max() ?? .nan) / 1e3
    }

    func print(_ report: Report) {
        report.table(
            ["at", "reads/s", "writes/s", "slowest write", "until"],
            entries.map(Self.cells))
    }

    private static func cells(_ entry: Entry) -> [String] {
        [
            number(entry.at, 1) + " s", number(Double(entry.reads) / entry.duration, 0),
            number(Double(entry.writes) / entry.duration, 0), number(entry.slowest / 1e3, 1) + " ms", entry.what,
        ]
    }
}
