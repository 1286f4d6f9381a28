import ReactionModel
import RedisStore
import SeededRandom
import Testing

@testable import Pipeline

private func makeType(_ mode: Mode) throws -> EntityType {
    EntityType(
        typeID: 1, name: "Image", mode: mode, phase: .native,
        kinds: [Kind(name: "Like", flag: 1), Kind(name: "Heart", flag: 4)],
        userMapKey: try KeyTemplate("u:<user>", required: "<user>"),
        entityKey: try KeyTemplate("e:<entity>", required: "<entity>"), shardCount: 10, epoch: 0)
}

/// What every event did, one after the other.
private struct Truth {
    var flags: [Int64: Int32] = [:]
    var positions: [Int64: ReactionPosition] = [:]

    /// A random change of a user, as its event would tell it.
    mutating func change(_ user: Int64, _ mode: Mode, version: Int64, using random: inout some RandomNumberGenerator)
        -> Event
    {
        let before = flags[user] ?? 0
        let kinds: [Int32] = mode == .exclusive ? [0, 1, 4] : [0, 1, 4, 5]
        let after = kinds.randomElement(using: &random) ?? 0
        var event = makeEvent(version, set: after & ~before, clear: before & ~after, user: user)
        event.createdAt = Int64.random(in: 0..<5, using: &random) * 1_000_000
        event.writtenAt = version * 1_000
        if before != after {
            flags[user] = after
            positions[user] = ReactionPosition(version: event.version, createdAt: event.createdAt, userID: user)
        }
        return event
    }

    var reactors: [Reactor] {
        positions.compactMap { user, position in
            let flags = flags[user] ?? 0
            return flags == 0 ? nil : Reactor(position: position, flags: flags)
        }
        .sorted { $0.position > $1.position }
    }

    func expectAgrees(_ state: EntityState, sourceLocation: SourceLocation = #_sourceLocation) {
        let all = reactors
        for flag in [1, 4] as [Int32] {
            let count = Int64(all.count { $0.flags & flag != 0 })
            #expect(state.counts[flag.trailingZeroBitCount] == count, sourceLocation: sourceLocation)
        }
        if let users = state.users { #expect(users == Int64(all.count), sourceLocation: sourceLocation) }
        let listed = all.filter { reactor in state.floor.map { reactor.position >= $0 } ?? true }
        #expect(state.reactors == listed, sourceLocation: sourceLocation)
    }
}

@Suite struct EntityStateTests {
    /// Random events in random chunks, of few users, so that they come back, and of more than a sample holds.
    @Test(arguments: [Mode.multi, .exclusive], [3, 400, 5_000] as [Int64])
    func aStateAgreesWithWhatEveryEventDid(_ mode: Mode, users: Int64) throws {
        let type = try makeType(mode)
        for seed in 0..<(users > 1_000 ? 2 : 10) as Range<UInt64> {
            var random = SplitMix(seed: seed)
            var truth = Truth()
            var state = EntityState(tier: .regular, allFlags: type.allFlags, reactors: [])
            var version: Int64 = 0
            for _ in 0..<30 {
                let before = truth
                let events = (0..<Int.random(in: 1...(users > 1_000 ? 3_000 : 50), using: &random)).map { _ in
                    version += 1
                    return truth.change(
                        .random(in: 1...users, using: &random), mode, version: version, using: &random)
                }
                guard let change = events.folded([1: type]).first else { continue }
                let asked = state.usersToAsk(change).map { ($0, before.flags[$0] ?? 0) }
                #expect(mode == .multi || asked.isEmpty)
                #expect(asked.count <= EntityState.sampleSize)
                try state.apply(change, asked: Dictionary(uniqueKeysWithValues: asked))
                truth.expectAgrees(state)
                #expect(state.floor == nil || state.tier == .viral && state.reactors.count <= EntityState.sampleSize)
                if state.tier == .regular || mode == .exclusive { #expect(state.users != nil) }
                if Int.random(in: 0..<10, using: &random) == 0 { state.promote() }
                truth.expectAgrees(state)
                // A rebuild tells the same of the whole list.
                if Int.random(in: 0..<20, using: &random) == 0 {
                    state = EntityState(tier: .regular, allFlags: type.allFlags, reactors: truth.reactors)
                    truth.expectAgrees(state)
                }
            }
        }
    }

    @Test func aFoldTellsEachUserOnceAndSumsDeltas() throws {
        let type = try makeType(.multi)
        let events = [
            makeEvent(1, set: 1, user: 2), makeEvent(2, set: 4, user: 1), makeEvent(3, set: 4, clear: 1, user: 2),
            makeEvent(4, set: 0, clear: 0, user: 3), makeEvent(5, set: 0, clear: 4, user: 1),
            makeEvent(6, set: 8, user: 5), makeEvent(7, set: 1, user: 4, entity: 9),
        ]
        let changes = events.folded([1: type])
        #expect(changes.map(\.entityID) == [1, 9])
        #expect(changes[0].deltas == [0, 0, 1])
        #expect(changes[0].users.map(\.position.userID) == [1, 2])
        #expect(changes[0].users.map(\.touched) == [4, 5])
        #expect(changes[0].users.map(\.before) == [0, 0])
        #expect(changes[0].users.map(\.after) == [0, 4])
        #expect(changes[0].users.map(\.position.version.rawValue) == [5, 3])
        var away = type
        away.isBackfilled = false
        #expect(events.folded([1: away]).isEmpty)
        #expect(events.folded([:]).isEmpty)
    }

    @Test func whoIsInDoubtIsNotInTheSampleAndMakesTheUsersUnknown() throws {
        let type = try makeType(.multi)
        let listed = (1...1_500).map {
            Reactor(position: ReactionPosition(version: Version(rawValue: $0), time: 0, userID: $0), flags: 1)
        }
        var state = EntityState(tier: .viral, allFlags: 5, reactors: listed.reversed())
        #expect(state.reactors.count == 1_000 && state.users == 1_500)
        let events = (1...1_200).map { makeEvent($0 + 2_000, set: 4, user: $0 + 10_000) }
        let change = try #require(events.folded([1: type]).first)
        let toAsk = state.usersToAsk(change)
        #expect(toAsk == (10_201...11_200).reversed())
        // All of them had a kind before, but it is known of the newest only.
        try state.apply(change, asked: Dictionary(uniqueKeysWithValues: toAsk.map { ($0, 1) }))
        #expect(state.users == nil)
        #expect(state.counts == [1_500, 0, 1_200])
        #expect(state.reactors.map(\.position.userID) == toAsk)
        #expect(state.reactors.allSatisfy { $0.flags == 5 })
        #expect(state.floor?.userID == 10_201)
    }

    @Test func aCountBelowZeroIsAFault() throws {
        let type = try makeType(.multi)
        var state = EntityState(tier: .regular, allFlags: 5, reactors: [])
        let change = try #require([makeEvent(1, set: 0, clear: 1)].folded([1: type]).first)
        #expect(throws: EntityState.Fault.self) { try state.apply(change) }
    }
}

@Suite struct TieringTests {
    private func decide(
        _ tier: EntityTier?, total: Int64, rate: Double, for age: Duration
    ) throws -> (tier: EntityTier, reason: Tiering.Reason) {
        var type = try makeType(.multi)
        type.viralThreshold = 100
        type.regularThreshold = 80
        return Tiering(dwell: .seconds(60), horizon: .seconds(10)).decide(
            tier, of: type, total: total, rate: rate, for: age)
    }

    @Test func aPostThatGoesUpAndDownAroundAThresholdDoesNotFlap() throws {
        for (low, high) in [(95, 105), (75, 85), (70, 110)] as [(Int64, Int64)] {
            var tier = EntityTier.regular
            var since = 0
            var changes = 0
            for second in 0..<600 {
                let total = second.isMultiple(of: 2) ? high : low
                let decided = try decide(tier, total: total, rate: 0, for: .seconds(second - since)).tier
                if decided != tier {
                    tier = decided
                    since = second
                    changes += 1
                }
            }
            // Where both thresholds are crossed it changes once in a dwell, up and down.
            #expect(changes <= (low < 80 && high >= 100 ? 600 / 60 * 2 : 1), "\(low) \(high)")
        }
    }

    @Test func aRateForetellsAndHolds() throws {
        #expect(try decide(.regular, total: 50, rate: 4, for: .seconds(1)).tier == .regular)
        let early = try decide(.regular, total: 50, rate: 5, for: .seconds(1))
        #expect(early.tier == .viral && early.reason == .rate)
        #expect(try decide(.viral, total: 50, rate: 5, for: .seconds(1_000)).tier == .viral)
        #expect(try decide(.viral, total: 50, rate: 1, for: .seconds(59)).tier == .viral)
        #expect(try decide(.viral, total: 79, rate: 1, for: .seconds(60)).tier == .regular)
        #expect(try decide(nil, total: 100, rate: 0, for: .zero).reason == .many)
        #expect(try decide(nil, total: 99, rate: 0, for: .zero).tier == .regular)
    }

    @Test func aMeterTellsTheRateOfWrites() {
        var meter = RateMeter(time: 0)
        for second in 1...300 { meter.add(50, at: Int64(second) * 1_000_000) }
        #expect(abs(meter.rate - 50) < 2)
        #expect(meter.rate(at: 600_000_000) < 0.01)
        // An older time of write is no way back.
        meter.add(1, at: 5)
        #expect(meter.time == 300_000_000)
    }
}
