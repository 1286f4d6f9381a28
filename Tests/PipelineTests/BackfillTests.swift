import Pipeline
import Testing

@Suite struct TableReadingTests {
    private func reading(
        ranges: Int, confirmed: [Int] = [], tried: [Int] = [], rowsPerSecond: Int? = nil
    ) -> TableReading {
        TableReading(
            ranges: ranges, confirmed: confirmed, tried: tried,
            limits: .init(longestLag: .seconds(10), rowsPerSecond: rowsPerSecond))
    }

    @Test func itGoesOnWhereItWas() {
        var reading = reading(ranges: 4, confirmed: [0, 2], tried: [1, 9])
        #expect(reading.begin(lag: .zero, now: .zero) == .read(range: 1, isFirst: false))
        #expect(reading.begin(lag: .zero, now: .zero) == .read(range: 3, isFirst: true))
        #expect(reading.begin(lag: .zero, now: .zero) == .finish)
        reading.rangeConfirmed(3, rows: 1, now: .zero)
        #expect(!reading.isComplete)
        reading.rangeConfirmed(1, rows: 1, now: .zero)
        #expect(reading.isComplete)
    }

    @Test func aRangeThatFailedIsLookedForBeforeItIsSentAgain() {
        var reading = reading(ranges: 2)
        #expect(reading.begin(lag: .zero, now: .zero) == .read(range: 0, isFirst: true))
        #expect(reading.begin(lag: .zero, now: .zero) == .read(range: 1, isFirst: true))
        reading.rangeFailed(0)
        #expect(reading.begin(lag: .zero, now: .zero) == .read(range: 0, isFirst: false))
    }

    @Test func nothingIsBegunWhileTheMirrorLags() {
        var reading = reading(ranges: 1)
        guard case .wait(let until) = reading.begin(lag: .seconds(11), now: .seconds(5)) else {
            Issue.record("it reads")
            return
        }
        #expect(until > .seconds(5))
        #expect(reading.isThrottled)
        #expect(reading.begin(lag: .seconds(10), now: until) == .read(range: 0, isFirst: true))
    }

    @Test func rowsArePaidFor() {
        var reading = reading(ranges: 3, rowsPerSecond: 100)
        #expect(reading.begin(lag: .zero, now: .zero) == .read(range: 0, isFirst: true))
        reading.rangeConfirmed(0, rows: 200, now: .seconds(1))
        #expect(reading.begin(lag: .zero, now: .seconds(1)) == .wait(until: .seconds(3)))
        #expect(reading.begin(lag: .zero, now: .seconds(3)) == .read(range: 1, isFirst: true))
    }

    @Test func whatAServerConfirmedBeforeItStartedIsLookedForAgain() {
        var reading = reading(ranges: 2, confirmed: [0, 1])
        #expect(reading.isComplete)
        reading.distrust()
        #expect(reading.begin(lag: .zero, now: .zero) == .read(range: 0, isFirst: false))
    }
}

@Suite struct SlicePlanTests {
    /// Answers every count from the rows of each user, and returns the slices.
    private func slices(_ rows: [Int64: Int64], sliceRows: Int64) -> [ClosedRange<Int64>] {
        guard let first = rows.keys.min(), let last = rows.keys.max() else { return [] }
        var plan = SlicePlan(users: first...last, sliceRows: sliceRows)
        var slices: [ClosedRange<Int64>] = []
        for _ in 0..<100_000 {
            switch plan.action {
            case .finish: return slices
            case .take(let users):
                slices.append(users)
                plan.taken()
            case .count(let users, let width):
                var counts: [UInt64: Int64] = [:]
                for (user, count) in rows where users.contains(user) {
                    counts[UInt64(truncatingIfNeeded: user &- users.lowerBound) / width, default: 0] += count
                }
                plan.counted(counts)
            }
        }
        Issue.record("no end")
        return slices
    }

    private func expectCovered(_ rows: [Int64: Int64], _ slices: [ClosedRange<Int64>], sliceRows: Int64) {
        for (left, right) in zip(slices, slices.dropFirst()) { #expect(left.upperBound < right.lowerBound) }
        for user in rows.keys { #expect(slices.count { $0.contains(user) } == 1, "user \(user)") }
        for slice in slices {
            let users = rows.filter { slice.contains($0.key) }
            #expect(users.count == 1 || users.values.reduce(0, +) <= sliceRows)
        }
    }

    @Test func everyUserIsInOneSliceOfBoundedSize() {
        var rows: [Int64: Int64] = [:]
        for user in Int64(1)...5_000 { rows[user] = 1 + user % 7 }
        rows[17] = 10_000
        rows[4_000_000_000] = 3
        let slices = slices(rows, sliceRows: 100)
        expectCovered(rows, slices, sliceRows: 100)
        #expect(slices.count < 1_000)
    }

    @Test func idsMayBeAnything() {
        let rows: [Int64: Int64] = [.min: 5, -1: 200, 0: 1, .max - 1: 60, .max: 60]
        expectCovered(rows, slices(rows, sliceRows: 100), sliceRows: 100)
        #expect(slices([7: 1_000], sliceRows: 10) == [7...7])
        #expect(SlicePlan(users: nil).action == .finish)
    }
}
