import Testing

@testable import ReactionBackend

@Suite struct EntityReadMachineTests {
    private func machine(
        readsRedis: Bool = true, asksTruth: Bool = true, fillWait: Int64 = 20
    ) -> EntityReadMachine {
        EntityReadMachine(.init(readsRedis: readsRedis, asksTruth: asksTruth, fillWait: fillWait))
    }

    private let failure = Failure.redisUnreachable("test")

    /// As far as the answer to the read.
    private func reading(
        _ machine: inout EntityReadMachine, _ finding: EntityReadMachine.Finding, at now: Int64 = 0
    ) -> EntityReadMachine.Action {
        #expect(machine.started() == .openRedis)
        #expect(machine.redisOpened() == .read)
        return machine.redisRead(finding, at: now)
    }

    @Test func aHitIsOneRead() {
        var machine = machine()
        #expect(reading(&machine, .everything) == .finish)
    }

    @Test func theFirstWhoMissesAsksTheTruthAtOnce() {
        var machine = machine()
        #expect(reading(&machine, .gaps) == .want)
        #expect(machine.wanted(isFirst: true, at: 0) == .wantTruth)
        #expect(machine.truthGiven(isAnswer: true) == .finish)
        #expect(!machine.hasWaitedInVain)
    }

    @Test func clickHouseIsAskedInAsManyQueriesAsItTakes() {
        var machine = machine(readsRedis: false)
        #expect(machine.started() == .wantTruth)
        #expect(machine.truthGiven(isAnswer: false) == .askClickHouse)
        #expect(machine.clickHouseAnswered(hasMore: true) == .askClickHouse)
        #expect(machine.clickHouseAnswered(hasMore: false) == .finish)
    }

    @Test func othersLookAgainUntilTheWaitIsOverAndWantItOnce() {
        var machine = machine()
        _ = reading(&machine, .gaps)
        #expect(machine.wanted(isFirst: false, at: 100) == .pause(milliseconds: 2))
        var pauses: [Int64] = []
        var now: Int64 = 102
        while true {
            #expect(machine.pauseEnded() == .openRedis)
            #expect(machine.redisOpened() == .read)
            guard case .pause(let milliseconds) = machine.redisRead(.gaps, at: now) else { break }
            pauses.append(milliseconds)
            now += milliseconds
        }
        #expect(pauses == [4, 8, 6])
        #expect(now == 120)
        #expect(machine.state == .awaitingTruth)
        #expect(machine.hasWaitedInVain)
    }

    @Test func anInstallEndsTheWait() {
        var machine = machine()
        _ = reading(&machine, .gaps)
        _ = machine.wanted(isFirst: false, at: 0)
        _ = machine.pauseEnded()
        _ = machine.redisOpened()
        #expect(machine.redisRead(.everything, at: 4) == .finish)
        #expect(!machine.hasWaitedInVain)
    }

    @Test func whoDoesNotWaitAsksTheTruthAndHasNotWaitedInVain() {
        var machine = machine(fillWait: 0)
        _ = reading(&machine, .gaps)
        #expect(machine.wanted(isFirst: false, at: 0) == .wantTruth)
        #expect(!machine.hasWaitedInVain)
    }

    @Test func whatRedisHasInPartIsNotWanted() {
        var machine = machine()
        #expect(reading(&machine, .rest) == .wantTruth)
    }

    @Test func withoutATruthGapsStay() {
        var machine = machine(asksTruth: false)
        #expect(reading(&machine, .gaps) == .finish)
    }

    @Test func moreOfTheSameIsReadOnTheSameConnection() {
        var machine = machine()
        _ = machine.started()
        _ = machine.redisOpened()
        #expect(machine.redisReadInPart() == .read)
        #expect(machine.redisRead(.everything, at: 0) == .finish)
    }

    @Test func aFailureIsOneExceptWhileNotingWhatWasMissed() {
        var opening = machine()
        _ = opening.started()
        #expect(opening.failed(failure) == .fail(failure))
        var wanting = machine()
        _ = reading(&wanting, .gaps)
        #expect(wanting.failed(failure) == .wantTruth)
        #expect(wanting.failed(failure) == .fail(failure))
    }
}
