import ReactionModel
import Testing

@testable import Pipeline

@Suite struct MirrorTests {
    private static let settings = Mirror.Settings(
        idleBeforeSleep: .seconds(5), redisGiveUp: .seconds(30), shutdownTimeout: .seconds(20),
        longestBackoff: .seconds(10))

    private func mirror(_ unfinished: [Batch] = []) -> Mirror {
        Mirror(settings: Self.settings, unfinished: unfinished, now: .zero, jitter: { 1 })
    }

    private func number(_ value: Int64) -> BatchNumber { BatchNumber(rawValue: value) }

    @Test func aBatchIsAppliedAndSentAtOnceAndFinishedWhenBothAreDone() {
        var mirror = mirror()
        var step = mirror.timePassed(now: .zero)
        #expect(step.names == ["look"])
        step = mirror.looked(makeBatch(1), oldestRunning: 9, now: .zero)
        #expect(step.names == ["apply 1", "send 1"])
        step = mirror.batchCounted(number(1), now: .milliseconds(3))
        #expect(step.names == [])
        step = mirror.offered(.changes, of: number(1), now: .milliseconds(4))
        #expect(step.names == ["finish 1"])
        step = mirror.batchFinished(number(1), now: .milliseconds(5))
        #expect(step.names == [])
    }

    @Test func aConfirmedBatchIsCountedBeforeItIsFinished() {
        var mirror = mirror([makeBatch(1), makeBatch(2)])
        _ = mirror.timePassed(now: .zero)
        for batch in 1...2 as ClosedRange<Int64> { _ = mirror.offered(.changes, of: number(batch), now: .zero) }
        var step = mirror.batchConfirmed(number(1), lag: LagHistogram(), now: .zero)
        #expect(step.names == ["send 2", "count 1"])
        // In order: the second one waits, though it is confirmed.
        step = mirror.batchConfirmed(number(2), lag: LagHistogram(), now: .zero)
        #expect(step.names == [])
        step = mirror.offerFailed(.counts, now: .zero)
        #expect(step.names == [])
        step = mirror.timePassed(now: Backoff.first)
        #expect(step.names == ["count 1"])
        step = mirror.offered(.counts, of: number(1), now: .seconds(1))
        #expect(step.names.starts(with: ["finish 1", "count 2"]))
    }

    @Test func itTellsWhatEachDestinationDoesNotHaveYet() {
        func behind(_ mirror: Mirror) -> [Int] { [mirror.behind.batches] + mirror.behind.byDestination.map(\.batches) }
        var mirror = mirror([makeBatch(1), makeBatch(2)])
        _ = mirror.timePassed(now: .zero)
        #expect(mirror.behind.byDestination.map(\.destination) == ["clickhouse", "user_maps", "removals", "entities"])
        #expect(behind(mirror) == [2, 2, 2, 0, 2])
        _ = mirror.offered(.changes, of: number(1), now: .zero)
        #expect(behind(mirror) == [2, 2, 1, 0, 2])
        _ = mirror.batchConfirmed(number(1), lag: LagHistogram(), now: .zero)
        #expect(behind(mirror) == [2, 1, 1, 0, 2])
        _ = mirror.offered(.counts, of: number(1), now: .zero)
        #expect(behind(mirror) == [2, 1, 1, 0, 1])
        _ = mirror.batchFinished(number(1), now: .zero)
        #expect(behind(mirror) == [1, 1, 1, 0, 1])
    }

    @Test func whatIsDisplacedInRedisIsMadeAbsentAtOnce() {
        var mirror = mirror([makeBatch(1, types: [3]), makeBatch(2, types: [4]), makeBatch(3, types: [5])])
        _ = mirror.timePassed(now: .zero)
        for batch in 1...3 as ClosedRange<Int64> { _ = mirror.offered(.changes, of: number(batch), now: .zero) }
        for batch in 1...2 as ClosedRange<Int64> {
            _ = mirror.batchConfirmed(number(batch), lag: LagHistogram(), now: .zero)
        }
        var step = mirror.offerDisplaced(.counts, now: .zero)
        #expect(step.names == ["raise [3, 4] through 2 for counts"])
        step = mirror.batchConfirmed(number(3), lag: LagHistogram(), now: .zero)
        #expect(step.names == [])
        step = mirror.epochsRaised(insteadOf: .counts, through: number(2), now: .zero)
        #expect(step.names == ["finish 1", "count 3"])
        step = mirror.offered(.counts, of: number(3), now: .zero)
        #expect(!mirror.isRedisFailing)
    }

    @Test func withoutRedisNothingIsCountedAndTheEpochRises() {
        var mirror = mirror([makeBatch(1, types: [3])])
        _ = mirror.timePassed(now: .zero)
        _ = mirror.offered(.changes, of: number(1), now: .zero)
        _ = mirror.batchConfirmed(number(1), lag: LagHistogram(), now: .zero)
        #expect(mirror.offerFailed(.counts, now: .zero).names == [])
        #expect(mirror.isRedisFailing)
        #expect(mirror.offerFailed(.counts, now: .seconds(30)).names.first == "raise [3] through 1 for counts")
        // What ClickHouse cannot tell no epoch would help.
        #expect(mirror.offerHindered(.counts, now: .seconds(31)).names == [])
        #expect(mirror.offerHindered(.counts, now: .seconds(90)).names == [])
    }

    /// Forms and finishes a batch of so many events.
    private func formBatch(of events: Int64, _ mirror: inout Mirror, number value: Int64, at now: Duration) {
        _ = mirror.looked(makeBatch(value, events: events), oldestRunning: 9, now: now)
        _ = mirror.offered(.changes, of: number(value), now: now)
        _ = mirror.batchCounted(number(value), now: now)
        #expect(mirror.batchFinished(number(value), now: now).names == [])
    }

    @Test(arguments: [(10, 100), (200, 100), (500, 200), (1250, 500), (100_000, 500)])
    func theMoreEventsASecondTheLongerFromOneBatchToTheNext(perTenthSecond: Int64, pace: Int) {
        var mirror = mirror()
        #expect(mirror.timePassed(now: .zero).names == ["look"])
        formBatch(of: 1, &mirror, number: 1, at: .zero)
        let now = Mirror.shortestPace
        #expect(mirror.timePassed(now: now).names == ["look"])
        formBatch(of: perTenthSecond, &mirror, number: 2, at: now)
        let due = now + .milliseconds(pace)
        #expect(mirror.timePassed(now: due - .milliseconds(1)).names == [])
        #expect(mirror.timePassed(now: due).names == ["look"])
    }

    @Test func afterAPauseNoLookIsHeldBack() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        formBatch(of: 100_000, &mirror, number: 1, at: .zero)
        var now = Mirror.longestPace
        for _ in 0..<5 {
            #expect(mirror.timePassed(now: now).names == ["look"])
            let due = mirror.looked(nil, oldestRunning: 9, now: now).waits.last ?? .zero
            #expect(due > now && due - now <= Bell.longestInterval)
            now = due
        }
    }

    @Test func batchesLeftByAFormerTermComeFirst() {
        var mirror = mirror([makeBatch(1), makeBatch(2)])
        var step = mirror.timePassed(now: .zero)
        #expect(step.names == ["apply 1", "send 1"])
        step = mirror.offered(.changes, of: number(1), now: .zero)
        #expect(step.names == ["apply 2"])
        step = mirror.batchCounted(number(1), now: .zero)
        #expect(Set(step.names) == ["finish 1", "send 2"])
    }

    @Test func withClickHouseAwayBatchesAreStillFormedAndAppliedButEverMoreSlowly() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        var now = Duration.zero
        var formed: Int64 = 0
        var gaps: [Duration] = []
        var last = Duration.zero
        _ = mirror.looked(makeBatch(1), oldestRunning: 9, now: now)
        formed = 1
        _ = mirror.sendFailed(slowly: true, now: now)
        _ = mirror.offered(.changes, of: number(1), now: now)
        while formed < 30, now < .seconds(1000) {
            now += .milliseconds(10)
            let actions = mirror.timePassed(now: now).names
            if actions.contains(where: { $0.hasPrefix("send") }) { _ = mirror.sendFailed(slowly: true, now: now) }
            guard actions.contains("look") else { continue }
            formed += 1
            gaps.append(now - last)
            last = now
            let step = mirror.looked(makeBatch(formed), oldestRunning: 9, now: now)
            #expect(step.names.contains("apply \(formed)"))
            _ = mirror.offered(.changes, of: number(formed), now: now)
        }
        #expect(formed == 30)
        #expect(gaps.first == .milliseconds(250))
        #expect(gaps.last == .seconds(5))
    }

    @Test func aBacklogIsFormedAheadOfTheLanesUnlessAServerFails() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        var now = Duration.zero
        for formed in 1...3 as ClosedRange<Int64> {
            _ = mirror.looked(makeBatch(formed), hasMore: true, oldestRunning: 9, now: now)
            now += .milliseconds(10)
            #expect(mirror.timePassed(now: now).names.contains("look") == (formed < 3))
        }
        _ = mirror.offered(.changes, of: number(1), now: now)
        _ = mirror.batchCounted(number(1), now: now)
        #expect(mirror.batchFinished(number(1), now: now).names.contains("look"))
        _ = mirror.looked(makeBatch(4), hasMore: true, oldestRunning: 9, now: now)
        _ = mirror.sendFailed(slowly: false, now: now)
        _ = mirror.offered(.changes, of: number(2), now: now)
        #expect(!mirror.timePassed(now: now + .milliseconds(10)).names.contains("look"))
    }

    @Test func aFailingServerIsTriedAgainWithDoublingDelays() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        _ = mirror.looked(makeBatch(1), oldestRunning: 9, now: .zero)
        _ = mirror.offered(.changes, of: number(1), now: .zero)
        var now = Duration.zero
        for delay in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            _ = mirror.sendFailed(slowly: false, now: now)
            #expect(mirror.isSinkFailing)
            let early = mirror.timePassed(now: now + .milliseconds(delay - 1)).names
            #expect(!early.contains("send 1"))
            now += .milliseconds(delay)
            let step = mirror.timePassed(now: now)
            #expect(step.names.contains("send 1"))
        }
        _ = mirror.batchCounted(number(1), now: now)
        #expect(!mirror.isSinkFailing)
    }

    @Test func afterTheGiveUpOneRaisedEpochStandsForEveryBatchFormedSoFar() {
        var mirror = mirror([makeBatch(1, types: [1]), makeBatch(2, types: [3])])
        _ = mirror.timePassed(now: .zero)
        var step = mirror.offerFailed(.changes, now: .seconds(1))
        #expect(step.names == ["look"])
        step = mirror.timePassed(now: .seconds(2))
        #expect(step.names.contains("apply 1"))
        step = mirror.offerFailed(.changes, now: .seconds(31))
        #expect(step.names.contains("raise [1, 3] through 2"))
        let actions = mirror.epochsRaised(insteadOf: .changes, through: number(2), now: .seconds(31)).names
        #expect(!actions.contains { $0.hasPrefix("apply") })
        #expect(mirror.isRedisFailing)
        step = mirror.batchCounted(number(1), now: .seconds(32))
        #expect(step.names.contains("finish 1"))
    }

    @Test func whoIsGoneIsToldToRedisAfterTheConfirmationAndBeforeTheEnd() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        var step = mirror.looked(makeBatch(1, hasRemovals: true), oldestRunning: 9, now: .zero)
        #expect(step.names == ["apply 1", "send 1"])
        step = mirror.offered(.changes, of: number(1), now: .zero)
        #expect(step.names == [])
        step = mirror.batchCounted(number(1), now: .zero)
        #expect(step.names == ["remove 1"])
        step = mirror.offered(.removals, of: number(1), now: .zero)
        #expect(step.names == ["finish 1"])
    }

    @Test func aLongRemovalHoldsUpNeitherServer() {
        var mirror = mirror([makeBatch(1, hasRemovals: true), makeBatch(2, hasRemovals: true), makeBatch(3)])
        _ = mirror.timePassed(now: .zero)
        _ = mirror.offered(.changes, of: number(1), now: .zero)
        var step = mirror.batchCounted(number(1), now: .zero)
        #expect(step.names == ["send 2", "remove 1"])
        step = mirror.offered(.changes, of: number(2), now: .zero)
        #expect(step.names == ["apply 3"])
        step = mirror.batchCounted(number(2), now: .zero)
        #expect(step.names == ["send 3"])
        step = mirror.offered(.removals, of: number(1), now: .zero)
        #expect(step.names == ["finish 1", "remove 2"])
    }

    /// A map that begins under the raised epoch before ClickHouse has the removal would be made without it.
    @Test func aRaisedEpochStandsOnlyForRemovalsThatWereConfirmedBefore() {
        var mirror = mirror([makeBatch(1, types: [1], hasRemovals: true), makeBatch(2, types: [3], hasRemovals: true)])
        _ = mirror.timePassed(now: .zero)
        for batch in 1...2 as ClosedRange<Int64> { _ = mirror.offered(.changes, of: number(batch), now: .zero) }
        _ = mirror.batchCounted(number(1), now: .zero)
        _ = mirror.offerFailed(.removals, now: .seconds(1))
        _ = mirror.timePassed(now: .seconds(2))
        var step = mirror.offerFailed(.removals, now: .seconds(31))
        #expect(step.names.contains("raise [1] through 1 for removals"))
        _ = mirror.batchCounted(number(2), now: .seconds(31))
        step = mirror.epochsRaised(insteadOf: .removals, through: number(1), now: .seconds(32))
        #expect(step.names == ["finish 1", "remove 2"])
    }

    /// The changes were given up while ClickHouse has not confirmed who is gone.
    @Test func aRaisedEpochForChangesStandsForNoRemoval() {
        var mirror = mirror([makeBatch(1, hasRemovals: true)])
        _ = mirror.timePassed(now: .zero)
        _ = mirror.offerFailed(.changes, now: .seconds(1))
        _ = mirror.timePassed(now: .seconds(2))
        _ = mirror.offerFailed(.changes, now: .seconds(31))
        _ = mirror.epochsRaised(insteadOf: .changes, through: number(1), now: .seconds(31))
        let step = mirror.batchCounted(number(1), now: .seconds(32))
        #expect(step.names.contains("remove 1"))
        #expect(!step.names.contains("finish 1"))
    }

    @Test func shuttingDownWaitsForARemovalUnderWay() {
        var mirror = mirror([makeBatch(1, hasRemovals: true)])
        _ = mirror.timePassed(now: .zero)
        _ = mirror.offered(.changes, of: number(1), now: .zero)
        _ = mirror.batchCounted(number(1), now: .zero)
        var step = mirror.shutdownRequested(now: .seconds(1))
        #expect(step.names == [])
        step = mirror.offered(.removals, of: number(1), now: .seconds(2))
        #expect(step.names == ["finish 1"])
    }

    @Test func epochsThatCannotBeRaisedAreTriedAgainAfterAWhile() {
        var mirror = mirror([makeBatch(1)])
        _ = mirror.timePassed(now: .zero)
        _ = mirror.offerFailed(.changes, now: .zero)
        _ = mirror.timePassed(now: .seconds(1))
        var step = mirror.offerFailed(.changes, now: .seconds(30))
        #expect(step.names.contains("raise [1] through 1"))
        step = mirror.raiseFailed(insteadOf: .changes, now: .seconds(31))
        #expect(!step.names.contains("apply 1"))
        step = mirror.timePassed(now: .seconds(32))
        #expect(step.names.contains("apply 1"))
        step = mirror.offerFailed(.changes, now: .seconds(32))
        #expect(step.names.contains("raise [1] through 1"))
    }

    @Test func shuttingDownFinishesWhatIsUnderWayAndFormsNothing() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        _ = mirror.looked(makeBatch(1), oldestRunning: 9, now: .zero)
        var step = mirror.shutdownRequested(now: .seconds(1))
        #expect(step.names == [])
        step = mirror.offered(.changes, of: number(1), now: .seconds(2))
        #expect(step.names == [])
        step = mirror.batchCounted(number(1), now: .seconds(3))
        #expect(step.names == ["finish 1"])
        step = mirror.batchFinished(number(1), now: .seconds(3))
        #expect(step.names == ["stop"])
        step = mirror.timePassed(now: .seconds(4))
        #expect(step.isEmpty)
    }

    @Test func shuttingDownDoesNotWaitForAServerThatFails() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        _ = mirror.looked(makeBatch(1), oldestRunning: 9, now: .zero)
        _ = mirror.shutdownRequested(now: .seconds(1))
        _ = mirror.offered(.changes, of: number(1), now: .seconds(1))
        let step = mirror.sendFailed(slowly: false, now: .seconds(2))
        #expect(step.names == ["stop"])
    }

    @Test func shuttingDownGivesTheOtherServerWhatIsUnderWay() {
        var mirror = mirror([makeBatch(1), makeBatch(2)])
        _ = mirror.timePassed(now: .zero)
        _ = mirror.shutdownRequested(now: .seconds(1))
        var step = mirror.sendFailed(slowly: false, now: .seconds(2))
        #expect(step.names == [])
        step = mirror.offered(.changes, of: number(1), now: .seconds(4))
        #expect(step.names == ["apply 2"])
        step = mirror.offered(.changes, of: number(2), now: .seconds(5))
        #expect(step.names == ["stop"])
    }

    @Test func shuttingDownEndsAtItsDeadline() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        _ = mirror.looked(makeBatch(1), oldestRunning: 9, now: .zero)
        _ = mirror.shutdownRequested(now: .seconds(1))
        let before = mirror.timePassed(now: .seconds(20))
        #expect(before.names == [])
        #expect(before.waits == [.seconds(21)])
        let after = mirror.timePassed(now: .seconds(21)).names
        #expect(after == ["stop"])
    }

    @Test func anIdleMirrorShutsDownAtOnce() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        let step = mirror.shutdownRequested(now: .seconds(1))
        #expect(step.names == ["stop"])
    }

    @Test func aBatchWithoutEventsDoesNotCountAsWork() {
        var mirror = mirror()
        _ = mirror.timePassed(now: .zero)
        _ = mirror.looked(makeBatch(1, events: 0), oldestRunning: 9, now: .seconds(4))
        _ = mirror.offered(.changes, of: number(1), now: .seconds(4))
        _ = mirror.batchCounted(number(1), now: .seconds(4))
        var step = mirror.batchFinished(number(1), now: .seconds(5))
        #expect(step.names == ["look"])
        step = mirror.looked(nil, oldestRunning: 9, now: .seconds(5))
        #expect(step.names == ["sleep"])
    }
}

@Suite struct BellTests {
    @Test func looksBecomeRarerWhileNothingComes() {
        var bell = Bell(idleBeforeSleep: .seconds(5), now: .zero)
        func look(_ found: Bool) -> Bell.Action {
            bell.looked(found: found, oldestRunning: 1, isBusy: false, now: .seconds(1))
        }
        let intervals = [false, false, false, false, false, false, true].map(look)
        #expect(intervals == [10, 20, 40, 80, 100, 100, 10].map { .look(after: .milliseconds($0)) })
    }

    @Test func itSleepsOnlyWhenNoWriterCanHaveMissedTheFlag() {
        var bell = Bell(idleBeforeSleep: .seconds(5), now: .zero)
        var step = bell.looked(found: false, oldestRunning: 50, isBusy: false, now: .seconds(5))
        #expect(step == .lieDown)
        step = bell.lainDown(horizon: 60)
        #expect(step == .look(after: .zero))
        step = bell.looked(found: false, oldestRunning: 59, isBusy: false, now: .seconds(5))
        #expect(step == .look(after: .milliseconds(100)))
        step = bell.looked(found: false, oldestRunning: 60, isBusy: false, now: .seconds(5))
        #expect(step == .awaitBell)
        step = bell.heard()
        #expect(step == .look(after: .zero))
        step = bell.looked(found: false, oldestRunning: 70, isBusy: false, now: .seconds(6))
        #expect(step == .awaitBell)
        _ = bell.heard()
        step = bell.looked(found: true, oldestRunning: 71, isBusy: false, now: .seconds(7))
        #expect(step == .wakeUp)
        step = bell.wokenUp(now: .seconds(7))
        #expect(step == .look(after: .zero))
    }

    @Test func aLateWriterWakesTheDozing() {
        var bell = Bell(idleBeforeSleep: .seconds(5), now: .zero)
        _ = bell.looked(found: false, oldestRunning: 50, isBusy: false, now: .seconds(5))
        _ = bell.lainDown(horizon: 60)
        let step = bell.looked(found: true, oldestRunning: 60, isBusy: true, now: .seconds(5))
        #expect(step == .wakeUp)
    }

    @Test func itStaysAwakeWhileBatchesAreUnderWay() {
        var bell = Bell(idleBeforeSleep: .seconds(5), now: .zero)
        let step = bell.looked(found: false, oldestRunning: 50, isBusy: true, now: .seconds(9))
        #expect(step != .lieDown)
    }
}
