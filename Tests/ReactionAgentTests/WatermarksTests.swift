import Pipeline
import ReactionModel
import Testing

@testable import ReactionAgent

/// What a shard's watermark may be, by the calls of a term.
@Suite struct WatermarksTests {
    private let shard = ShardID(typeID: 1, shard: 7)
    private let batch = BatchNumber(rawValue: 5)

    @Test func callsOfOnePipelineFollowEachOther() throws {
        var watermarks = Watermarks()
        #expect(watermarks.open([shard]).unclaimed == [shard])
        watermarks.claimed(shard)
        #expect(watermarks.open([shard]).unclaimed.isEmpty && watermarks.telling == [shard])
        let first = watermarks.begin(shard, batch)
        let second = watermarks.begin(shard, batch)
        #expect(first.predecessor == watermarks.claim && second.predecessor == first.successor)
        watermarks.succeeded(shard, first.successor)
        // The second one's answer was lost: it may be either.
        #expect(watermarks.open([shard]).unsure == [shard] && watermarks.telling.isEmpty)
        for found in [first.successor, second.successor] {
            var settled = watermarks
            try settled.settle(shard, found, of: nil)
            #expect(settled.telling == [shard] && settled.begin(shard, batch).predecessor == found)
        }
        watermarks.succeeded(shard, second.successor)
        #expect(watermarks.telling == [shard])
    }

    @Test func whatNoCallHasLeftKeepsTheShardFromBeingWrittenUntilTheNextEpoch() throws {
        var watermarks = Watermarks()
        watermarks.claimed(shard)
        let (_, successor) = watermarks.begin(shard, batch)
        watermarks.succeeded(shard, successor)
        for found in [watermarks.claim, [], successor] {
            let error = #expect(throws: CacheError.self) { try watermarks.settle(shard, found, of: nil) }
            #expect(error?.displacedTypes == [1])
            #expect(watermarks.begin(shard, batch).predecessor == Array("?".utf8))
            // From then on not even what it was counts.
            _ = watermarks.displaced(shard, of: nil)
        }
        watermarks.forget([2])
        #expect(watermarks.open([shard]).unclaimed.isEmpty)
        watermarks.forget([1])
        #expect(watermarks.open([shard]).unclaimed == [shard] && watermarks.telling.isEmpty)
    }

    @Test func theLessIsMissedTheLessIsLooked() {
        for (quiet, interval) in [
            (0, 10), (1_999, 10), (2_000, 200), (11_999, 200), (12_000, 1_000), (86_400_000, 1_000),
        ] {
            #expect(Rebuilder.interval(after: .milliseconds(quiet)) == .milliseconds(interval))
        }
    }

    /// Of those that failed together, not of those that may be: one of eleven is alone after three failures, not after nine.
    @Test func whatFailedTogetherIsHalved() {
        var together = Rebuilder.Together()
        var limits = [together.limit]
        for count in [11, 5, 2, 1, 0] {
            together.failed(of: count)
            limits.append(together.limit)
        }
        for _ in 1...10 { together.succeeded() }
        #expect(limits == [500, 5, 2, 1, 1, 1] && together.limit == 500)
    }
}
