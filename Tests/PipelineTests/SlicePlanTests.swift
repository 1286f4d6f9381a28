import Pipeline
import Testing

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
