import Testing

@testable import ReactionBackend

@Suite struct ReadMachineTests {
    private func machine(
        whole: Bool = false, mayFill: Bool = true, skipsRedis: Bool = false, source: ReadMachine.Source = .table,
        fillWait: Int64 = 20
    ) -> ReadMachine {
        ReadMachine(
            ReadMachine.Question(
                isWholeMap: whole, mayFill: mayFill, skipsRedis: skipsRedis, source: source, fillWait: fillWait))
    }

    private let failure = Failure.redisUnreachable("test")

    /// As far as the answer to the read of the map.
    private func reading(_ machine: inout ReadMachine, _ finding: ReadMachine.Finding) -> ReadMachine.Action {
        #expect(machine.started() == .openRedis)
        #expect(machine.redisOpened() == .readMap)
        return machine.mapRead(finding)
    }

    @Test func aHitIsOneRead() {
        var machine = machine()
        #expect(reading(&machine, .everything(isTouchDue: false)) == .finish(.answered))
    }

    @Test func aMapThatWasNotTouchedForLongIsTouchedUnlessTheReadMayNotFill() {
        var filling = machine()
        #expect(reading(&filling, .everything(isTouchDue: true)) == .touch)
        #expect(filling.redisFailed(failure) == .finish(.answered))
        var other = machine(mayFill: false)
        #expect(reading(&other, .everything(isTouchDue: true)) == .finish(.answered))
    }

    @Test func aMissOfANewMapAsksForTheWholeUserAndFillsIt() {
        var machine = machine()
        #expect(reading(&machine, .gaps) == .askMiss)
        #expect(machine.missAnswered(.new, isGranted: true, at: 0) == .wantTruth(.wholeUser))
        #expect(machine.truthGiven(overflows: false) == .fillComplete)
        #expect(machine.filled() == .finish(.answered))
    }

    @Test func aUserOverTheLimitIsAskedForByIDs() {
        var machine = machine()
        _ = reading(&machine, .gaps)
        _ = machine.missAnswered(.new, isGranted: true, at: 0)
        #expect(machine.truthGiven(overflows: true) == .wantTruth(.unknownIDs))
        #expect(machine.truthGiven(overflows: false) == .fillIDs)
        #expect(machine.filled() == .finish(.answered))
    }

    @Test(arguments: [ReadMachine.MapSize.partial, .complete])
    func aMissOfAKnownMapAsksForTheUnknownIDsOnly(size: ReadMachine.MapSize) {
        var machine = machine()
        _ = reading(&machine, .gaps)
        #expect(machine.missAnswered(size, isGranted: true, at: 0) == .wantTruth(.unknownIDs))
        #expect(machine.truthGiven(overflows: false) == .fillIDs)
    }

    @Test func clickHouseIsAskedUnderTheOutboxAndNotTwiceForIt() {
        var machine = machine(source: .clickHouse)
        _ = reading(&machine, .gaps)
        _ = machine.missAnswered(.new, isGranted: true, at: 0)
        #expect(machine.truthGiven(overflows: false) == .askClickHouse(.wholeUser))
        #expect(machine.clickHouseAnswered(overflows: true) == .askClickHouse(.unknownIDs))
        #expect(machine.clickHouseAnswered(overflows: false) == .fillIDs)
    }

    @Test func aWholeMapOfAUserOverTheLimitLeavesWordOfIt() {
        var machine = machine(whole: true)
        _ = reading(&machine, .gaps)
        #expect(machine.missAnswered(.new, isGranted: true, at: 0) == .wantTruth(.wholeUser))
        #expect(machine.truthGiven(overflows: true) == .fillTooMany)
        #expect(machine.filled() == .finish(.tooMany))
    }

    @Test func aReadThatMayNotFillAsksForNoNonce() {
        var machine = machine(mayFill: false)
        #expect(reading(&machine, .gaps) == .wantTruth(.unknownIDs))
        #expect(machine.truthGiven(overflows: false) == .finish(.answered))
    }

    @Test func aReadThatSkipsRedisStartsAtTheTruth() {
        var machine = machine(mayFill: false, skipsRedis: true)
        #expect(machine.started() == .wantTruth(.unknownIDs))
        #expect(machine.truthGiven(overflows: false) == .finish(.answered))
    }

    @Test func anotherSessionsFillIsAwaitedWithinBoundsAndThenNotCompetedWith() {
        var machine = machine(fillWait: 20)
        var now: Int64 = 1_000
        var action = reading(&machine, .gaps)
        var pauses: [Int64] = []
        while action == .askMiss {
            action = machine.missAnswered(.new, isGranted: false, at: now)
            guard case .pause(let milliseconds) = action else { break }
            pauses.append(milliseconds)
            now += milliseconds
            #expect(machine.pauseEnded() == .openRedis)
            #expect(machine.redisOpened() == .readMap)
            action = machine.mapRead(.gaps)
        }
        #expect(pauses == [2, 4, 8, 6])
        #expect(action == .wantTruth(.unknownIDs))
        #expect(machine.truthGiven(overflows: false) == .finish(.answered))
    }

    @Test func redisFailingIsAFailureOnlyWhileTheAnswerHangsOnIt() {
        var opening = machine()
        _ = opening.started()
        #expect(opening.redisFailed(failure) == .fail(failure))

        var filling = machine()
        _ = reading(&filling, .gaps)
        _ = filling.missAnswered(.new, isGranted: true, at: 0)
        _ = filling.truthGiven(overflows: false)
        #expect(filling.redisFailed(failure) == .finish(.answered))

        var write = machine(mayFill: false, source: .none)
        _ = write.started()
        #expect(write.redisFailed(failure) == .finish(.gaps))
    }

    @Test func aReadWithoutATruthLeavesGaps() {
        var machine = machine(mayFill: false, source: .none)
        #expect(reading(&machine, .gaps) == .finish(.gaps))
    }

    @Test func anUnexpectedEventIsAFailureAndNoTrap() {
        var machine = machine()
        guard case .fail(let failure) = machine.truthGiven(overflows: false) else {
            Issue.record("the event was taken")
            return
        }
        #expect(failure.message == Failure.brokenContract("").message)
    }
}
