import Glibc

/// Times of calls, in microseconds.
struct Samples {
    private(set) var values: [Double] = []

    mutating func add(_ microseconds: Double) { values.append(microseconds) }

    var median: Double { quantile(0.5) }
    var p99: Double { quantile(0.99) }

    /// NaN without samples.
    func quantile(_ share: Double) -> Double {
        guard !values.isEmpty else { return .nan }
        let sorted = values.sorted()
        return sorted[min(Int(Double(sorted.count) * share), sorted.count - 1)]
    }
}

/// Microseconds of a clock that only goes forward.
func microseconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) * 1e6 + Double(time.tv_nsec) / 1e3
}

/// One of the ways that are compared.
struct Contender {
    /// Short, for the table.
    let name: String
    /// What exactly is measured.
    let what: String
    /// One call; `round` chooses the question, the same for every contender. What only checks an answer belongs into `check`.
    let call: (_ round: Int) throws -> Void
}

/// Measures one client's calls of contenders in turn: a few calls of one, the same of the next, and so on, so that what disturbs the
/// machine disturbs all of them.
func measureInTurn(_ contenders: [Contender], calls: Int, inARow: Int = 20) throws -> [String: Samples] {
    var samples = [String: Samples](uniqueKeysWithValues: contenders.map { ($0.name, Samples()) })
    for first in stride(from: -inARow, to: calls, by: inARow) {
        for contender in contenders {
            for round in first..<first + inARow {
                let start = microseconds()
                try contender.call(abs(round))
                let end = microseconds()
                // The first turn warms up.
                if first >= 0 { samples[contender.name]?.add(end - start) }
            }
        }
    }
    return samples
}

struct BenchmarkError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// Ends the benchmark if what it timed is not right.
func check(_ condition: Bool, _ what: @autoclosure () -> String) throws {
    guard condition else { throw BenchmarkError("wrong answer: \(what())") }
}
