import ClickHouseStore
import Pipeline
import ReactionModel
import Testing

@Suite struct RollBackTests {
    private func batch(_ number: Int64) -> BatchNumber { BatchNumber(rawValue: number) }

    private func machine() -> RollBack { RollBack(longestBackoff: .seconds(10), jitter: { 1 }) }

    @Test func statesComeFirstThenEventsThenTheFlip() {
        var machine = machine()
        #expect(
            machine.began(done: batch(0), chosen: batch(7), isFresh: true)
                == .writeBatches(after: batch(0), through: batch(7)))
        #expect(machine.batchesWritten() == .writeEvents)
        #expect(machine.eventsWritten(40_000) == .writeEvents)
        #expect(machine.eventsWritten(900) == .writeEvents)
        #expect(machine.eventsWritten(200) == .flip)
        #expect(machine.flipped() == .stop)
        #expect(machine.obstacle == nil)
    }

    @Test func aTableThatHasTheBatchesIsGivenTheEvents() {
        var machine = machine()
        #expect(machine.began(done: batch(7), chosen: batch(7), isFresh: true) == .writeEvents)
        #expect(machine.eventsWritten(0) == .flip)
        // After a failover that lost batches: the events behind the one that is left are written again.
        #expect(machine.began(done: batch(9), chosen: batch(7), isFresh: true) == .writeEvents)
    }

    @Test func aRoundThatAnotherAgentLeftIsFinishedUnderALockOfItsOwn() {
        var machine = machine()
        #expect(
            machine.began(done: batch(2), chosen: batch(5), isFresh: false)
                == .writeBatches(after: batch(2), through: batch(5)))
        #expect(machine.batchesWritten() == .begin)
    }

    @Test func withoutAFinishedBatchItWaits() {
        var machine = machine()
        guard case .pause = machine.began(done: batch(0), chosen: nil, isFresh: false) else {
            Issue.record("it begins")
            return
        }
        #expect(machine.obstacle?.contains("mirror") == true)
    }

    @Test func roundsThatGetNoShorterEndInAFlipIfTheyAreShortEnough() {
        var machine = machine()
        _ = machine.began(done: batch(1), chosen: batch(1), isFresh: true)
        #expect(machine.eventsWritten(3_000) == .writeEvents)
        #expect(machine.eventsWritten(3_000) == .flip)
    }

    @Test func writersThatAreFasterAreTold() {
        var machine = machine()
        _ = machine.began(done: batch(1), chosen: batch(1), isFresh: true)
        for _ in 0...30 { #expect(machine.eventsWritten(RollBack.mostAtTheEnd + 1) == .writeEvents) }
        #expect(machine.obstacle?.contains("as fast as") == true)
        #expect(machine.eventsWritten(10) == .flip)
    }

    @Test func tooManyEventsWaitForClickHouse() {
        var machine = machine()
        _ = machine.began(done: batch(1), chosen: batch(1), isFresh: true)
        guard case .pause = machine.eventsWritten(RollBack.mostEvents + 1) else {
            Issue.record("it writes them")
            return
        }
        #expect(machine.obstacle?.contains("ClickHouse") == true)
        #expect(machine.state == .beginning)
    }

    @Test func afterAFailureEverythingIsBegunAnewLaterAndLater() {
        var machine = machine()
        _ = machine.began(done: batch(1), chosen: batch(1), isFresh: true)
        _ = machine.eventsWritten(0)
        #expect(machine.failed("a lock", slowly: false) == .pause(.milliseconds(100)))
        #expect(machine.failed("a lock", slowly: false) == .pause(.milliseconds(200)))
        #expect(machine.obstacle == "a lock")
        #expect(machine.failed("a table", slowly: true) == .pause(.seconds(10)))
        _ = machine.began(done: batch(1), chosen: batch(2), isFresh: true)
        _ = machine.batchesWritten()
        #expect(machine.failed("again", slowly: false) == .pause(.milliseconds(100)))
    }
}

@Suite struct WriteBackPageTests {
    private func kind(
        _ user: Int64, _ flag: Int32, set: Bool = true, cleared: Bool = false, at: Int64 = 5
    ) -> WriteBackQuery.Kind {
        .init(userID: user, entityID: 1, flag: flag, isSet: set, wasCleared: cleared || !set, createdAt: at)
    }

    private func steps(_ kinds: [WriteBackQuery.Kind], _ mode: Mode = .multi) -> [[Int64]] {
        WriteBackPage.pages(of: kinds, mode: mode, keysPerPage: 100).flatMap(\.steps)
            .map { [$0.userID, Int64($0.setMask), Int64($0.clearMask), $0.createdAt] }
    }

    @Test func whatIsClearedComesFirstThenWhatIsSetByTime() {
        #expect(
            steps([kind(1, 8, set: false, at: 3), kind(1, 1, at: 5), kind(1, 2, at: 5), kind(1, 4, at: 9)])
                == [[1, 0, 8, 3], [1, 3, 0, 5], [1, 4, 0, 9]])
        #expect(steps([kind(1, 1)]) == [[1, 1, 0, 5]])
    }

    @Test func whatWasTakenAwayAndSetAgainGetsANewRow() {
        #expect(steps([kind(1, 1, cleared: true, at: 9)]) == [[1, 0, 1, 9], [1, 1, 0, 9]])
        #expect(steps([kind(1, 1, cleared: true, at: 9)], .exclusive) == [[1, 0, 1, 9], [1, 1, 0, 9]])
    }

    @Test func theRowOfAnExclusiveReactionIsChanged() {
        #expect(steps([kind(1, 1, set: false, at: 5), kind(1, 2, at: 5)], .exclusive) == [[1, 2, 1, 5]])
        #expect(steps([kind(1, 1, set: false, at: 5)], .exclusive) == [[1, 0, 1, 5]])
    }

    @Test func noReactionIsCut() {
        let kinds = (1...5).flatMap { [kind($0, 1, at: 1), kind($0, 2, at: 2)] }
        let pages = WriteBackPage.pages(of: kinds, mode: .multi, keysPerPage: 2)
        #expect(pages.map(\.keys) == [2, 2, 1])
        #expect(pages.map(\.steps.count) == [4, 4, 2])
        #expect(WriteBackPage.pages(of: [], mode: .multi, keysPerPage: 2).isEmpty)
    }
}

@Suite struct AutoAdvanceTests {
    private let due = AutoAdvance.Standing(entityType: "Image", phase: "attached", isDue: true)

    @Test func aTypeIsTriedOnceAMinuteFromTheTimeOn() {
        var machine = AutoAdvance()
        var early = due
        early.isDue = false
        #expect(machine.looked([early], now: .zero) == [])
        #expect(machine.looked([due], now: .seconds(1)) == [due])
        #expect(machine.looked([due], now: .seconds(60)) == [])
        #expect(machine.looked([due], now: .seconds(61)) == [due])
    }

    @Test func aReasonIsToldOnce() {
        var machine = AutoAdvance()
        _ = machine.looked([due], now: .zero)
        #expect(machine.refused(due, "match") == true)
        _ = machine.looked([due], now: .seconds(60))
        #expect(machine.refused(due, "match") == false)
        #expect(machine.refused(due, "lag") == true)
    }

    @Test func inAnotherPhaseEverythingIsNew() {
        var machine = AutoAdvance()
        _ = machine.looked([due], now: .zero)
        _ = machine.refused(due, "match")
        var next = due
        next.phase = "dual_read"
        #expect(machine.looked([next], now: .seconds(1)) == [next])
        #expect(machine.refused(next, "match") == true)
        // What is no longer to be left by itself is forgotten.
        #expect(machine.looked([], now: .seconds(2)) == [])
        #expect(machine.looked([next], now: .seconds(3)) == [next])
    }
}
