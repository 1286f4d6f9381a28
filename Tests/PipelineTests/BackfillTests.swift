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
