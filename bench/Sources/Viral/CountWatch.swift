import Glibc
import TestSupport

/// Notes when the total of a post's counts in Redis changes, while it is counted.
final class CountWatch {
    /// When how many were counted, in order.
    struct Passed {
        fileprivate(set) var counts: [(microseconds: Double, count: Int)] = []
        fileprivate let first: Int

        /// Seconds of each tenth of the events behind the first. A batch is counted at once, and its events came evenly since the one
        /// before.
        func tenths(of events: Int, since start: Double) -> [Double] {
            var before = (microseconds: start, count: first)
            var ends: [Double] = []
            for now in counts {
                while ends.count < 10, now.count - first >= (ends.count + 1) * events / 10 {
                    let wanted = first + (ends.count + 1) * events / 10
                    let share = Double(wanted - before.count) / Double(now.count - before.count)
                    ends.append(before.microseconds + share * (now.microseconds - before.microseconds))
                }
                before = now
            }
            return zip(ends, [start] + ends).map { ($0 - $1) / 1e6 }
        }
    }

    private let isOver = EndSignal()
    private let task: Task<Passed, any Error>

    /// - Parameters:
    ///   - key: of the counts.
    ///   - first: what has been counted already.
    init(_ stack: Stack, _ key: String, from first: Int) throws {
        let redis = try stack.redis.connect()
        let isOver = isOver
        task = Task {
            try await onThread {
                Result {
                    var passed = Passed(first: first)
                    var isLast = false
                    while !isLast {
                        // Once more when it is over: the last total is there then.
                        isLast = isOver.isRaised
                        let total = try redis.command("HGET", key, "total").string.flatMap { Int($0) } ?? first
                        if total > passed.counts.last?.count ?? first { passed.counts.append((microseconds(), total)) }
                        if !isLast { usleep(2_000) }
                    }
                    return passed
                }
            }.get()
        }
    }

    func end() async throws -> Passed {
        isOver.raise()
        return try await task.value
    }
}
