import ReactionModel
import Testing

@testable import Pipeline

@Suite struct BisectionTests {
    /// Sends until all is in; returns what was accepted and what was found.
    private func deliver(
        _ count: Int, refused: Set<Int>, parked: Set<Int> = [], dieAfter attempts: Int = .max
    ) -> (accepted: [Range<Int>], found: Set<Int>) {
        var bisection = Bisection(count: count, parked: parked)
        var accepted: [Range<Int>] = []
        var found: Set<Int> = []
        var attempt = 0
        while attempt < attempts, let piece = bisection.next() {
            attempt += 1
            if refused.isDisjoint(with: piece) {
                accepted.append(piece)
            } else if case .found(let position) = bisection.refused(piece) {
                found.insert(position)
            }
        }
        return (accepted, found)
    }

    @Test(arguments: [[], [0], [99], [17, 18], [0, 1, 2, 3], Set(0..<100)] as [Set<Int>])
    func everyRefusedEventIsFoundAndEveryOtherGoesInOnceAndInOrder(refused: Set<Int>) {
        let (accepted, found) = deliver(100, refused: refused)
        #expect(found == refused)
        #expect(accepted.flatMap(Array.init) == (0..<100).filter { !refused.contains($0) })
    }

    @Test func afterACrashThePiecesAreTheSame() {
        let refused: Set<Int> = [17, 18, 70]
        let whole = deliver(100, refused: refused)
        for attempts in 1...60 {
            let before = deliver(100, refused: refused, dieAfter: attempts)
            let after = deliver(100, refused: refused, parked: before.found)
            #expect(Set(before.accepted).isSubset(of: after.accepted))
            #expect(after.accepted == whole.accepted)
            #expect(before.found.union(after.found) == refused)
        }
    }

    @Test func onlyTheThirdRefusalInARowWithTheSameCodeIsBelieved() {
        var count = RefusalCount()
        let believed = [27, 27, 6, 6, 6].map { count.refused(code: $0) }
        #expect(believed == [false, false, false, false, true])
        count.accepted()
        let again = count.refused(code: 6)
        #expect(!again)
    }
}

@Suite struct DeltaResolutionTests {
    @Test func masksBecomeWhatChanged() {
        let events = [
            makeEvent(1, set: 3, isDeltaKnown: false), makeEvent(2, set: 4, clear: 7, isDeltaKnown: false),
            makeEvent(3, set: 0, clear: 8, isDeltaKnown: false),
        ]
        let resolved = events.resolved(before: [events[0].key([:]): KnownFlags(flags: 1)], [:])
        #expect(resolved.map(\.setMask) == [2, 4, 0])
        #expect(resolved.map(\.clearMask) == [0, 3, 0])
        #expect(resolved.allSatisfy { $0.isDeltaKnown })
    }

    @Test func knownDeltasStayAndCountForWhatFollows() {
        let events = [makeEvent(1, set: 1), makeEvent(2, set: 1, isDeltaKnown: false), makeEvent(3, set: 0, clear: 1)]
        #expect(events.keysToResolve([:]) == [events[0].key([:])])
        let resolved = events.resolved(before: [:], [:])
        #expect(resolved.map(\.setMask) == [1, 0, 0])
        #expect(resolved[0] == events[0])
        #expect(resolved[2] == events[2])
    }

    @Test func eventsOfOtherKeysAreLeftAlone() {
        let events = [makeEvent(1, user: 1), makeEvent(2, isDeltaKnown: false, user: 2)]
        #expect(events.resolved(before: [events[1].key([:]): KnownFlags(flags: 1)], [:]).map(\.setMask) == [1, 0])
    }

    /// A row that is still to be read may have any kind: what an event says of it counts as changed, once.
    @Test func whatIsUnknownCountsAsChanged() {
        let events = [
            makeEvent(1, set: 1, clear: 6, isDeltaKnown: false), makeEvent(2, set: 1, clear: 6, isDeltaKnown: false),
            makeEvent(3, set: 8, isDeltaKnown: false),
        ]
        let known = KnownFlags(flags: 8, unknown: ~8 & ~4)
        let resolved = events.resolved(before: [events[0].key([:]): known], [:])
        #expect(resolved.map(\.setMask) == [1, 0, 0])
        #expect(resolved.map(\.clearMask) == [2, 0, 0])
    }

    /// What is known of the time before a backfill says nothing of the time after it began.
    @Test func anEventCountsInItsOwnEra() throws {
        let events = [
            makeEvent(1, set: 1, isDeltaKnown: false), makeEvent(2, set: 1, isDeltaKnown: false),
            makeEvent(5, set: 1, isDeltaKnown: false),
        ]
        let type = EntityType(
            typeID: events[0].typeID, name: "Image", mode: .multi, phase: .attached, kinds: [],
            userMapKey: try KeyTemplate("u:<user>", required: "<user>"),
            entityKey: try KeyTemplate("e:<entity>", required: "<entity>"), shardCount: 1, epoch: 0,
            eras: [BackfillEra(version: Version(rawValue: 4), completeBatch: nil, isRead: false)])
        let catalog = [events[0].typeID: type]
        let keys = events.keysToResolve(catalog)
        #expect(keys.map(\.era.rawValue) == [0, 4])
        let resolved = events.resolved(before: [keys[1]: KnownFlags(unknown: ~0)], catalog)
        #expect(resolved.map(\.setMask) == [1, 0, 1])
    }
}

@Suite struct ValueTests {
    @Test(arguments: ["10:20:10,14,15", "7:7:"])
    func aSnapshotReadsAsItWrites(text: String) throws {
        #expect(try #require(Snapshot(text)).text == text)
    }

    @Test(arguments: ["", "1:2", "2:1:", "a:b:", "1:9:x"])
    func aMalformedSnapshotIsRefused(text: String) {
        #expect(Snapshot(text) == nil)
    }

    @Test func aCutSnapshotKnowsNothingFromTheCutOn() throws {
        let snapshot = try #require(Snapshot("10:20:10,14,15"))
        #expect(snapshot.cut(at: 15).text == "10:15:10,14")
        #expect(snapshot.cut(at: 8).text == "8:8:")
        #expect(snapshot.cut(at: 30) == snapshot)
    }

    @Test func quantilesAreBoundsOfBuckets() {
        var lag = LagHistogram()
        #expect(lag.quantile(0.5) == nil)
        for milliseconds in 1...100 { lag.add(microseconds: Int64(milliseconds) * 1000) }
        #expect(lag.quantile(0.5) == 64)
        #expect(lag.quantile(0.99) == 128)
        #expect(lag.total == 100)
        #expect(LagHistogram(counts: lag.counts) == lag)
        #expect(LagHistogram(counts: [1, 2]) == nil)
        #expect(LagHistogram.bounds == LagHistogram.bounds.sorted())
    }

    @Test func aLagIsInTheFirstBucketWhoseBoundItDoesNotPass() throws {
        let edges = LagHistogram.bounds.flatMap { [$0 - 1, $0, $0 + 1] }
        for milliseconds in edges + [1 << 40, .max / 1000 - 1] {
            var lag = LagHistogram()
            lag.add(microseconds: milliseconds * 1000)
            let bucket = LagHistogram.bounds.firstIndex { milliseconds <= $0 } ?? LagHistogram.bounds.count
            #expect(lag.counts.firstIndex(of: 1) == bucket, "\(milliseconds) ms")
        }
    }

    @Test func theJitterTakesAtMostHalfOfADelay() {
        var shortest = Backoff(limit: .seconds(1), jitter: { 0 })
        var longest = Backoff(limit: .seconds(1), jitter: { 1 })
        let delays = [shortest.failed(), longest.failed(), longest.failed(slowly: true)]
        #expect(delays == [.milliseconds(50), .milliseconds(100), .seconds(1)])
    }
}
