import ClickHouseStore
import Testing

@testable import ReactionAgent

@Suite struct ChunkDeliveryTests {
    private static let expected: [MirrorTable: Tally] = [
        .reactionsByEntity: Tally(rows: 10, checksum: 55), .reactionDeltas: Tally(rows: 3, checksum: 4),
        .entityMetricEvents: Tally(rows: 12, checksum: 66),
    ]

    private func found(_ changes: [MirrorTable: Tally]) -> [MirrorTable: Tally] {
        Self.expected.merging(changes) { $1 }
    }

    @Test func whatIsMissingIsInsertedWithTheEventsLast() {
        var delivery = ChunkDelivery(expected: Self.expected, isSharded: false)
        #expect(
            delivery.looked(found: [:])
                == .act([
                    .insert(.reactionsByEntity, isRepeated: false), .insert(.reactionDeltas, isRepeated: false),
                    .insert(.entityMetricEvents, isRepeated: false),
                ]))
        #expect(delivery.looked(found: Self.expected) == .complete)
    }

    @Test func whatIsThereIsNotSentAgain() {
        var delivery = ChunkDelivery(expected: Self.expected, isSharded: false)
        #expect(
            delivery.looked(found: found([.entityMetricEvents: Tally()]))
                == .act([.insert(.entityMetricEvents, isRepeated: false)]))
    }

    @Test func anInsertThatIsConfirmedAndNotThereIsRepeatedOnceUnderAnotherToken() {
        var delivery = ChunkDelivery(expected: Self.expected, isSharded: false)
        let lacking = found([.reactionDeltas: Tally()])
        #expect(delivery.looked(found: lacking) == .act([.insert(.reactionDeltas, isRepeated: false)]))
        #expect(delivery.looked(found: lacking) == .act([.insert(.reactionDeltas, isRepeated: true)]))
        #expect(delivery.looked(found: lacking) == .lost(.reactionDeltas))
    }

    @Test func rowsThatAreThereTwiceAreMergedOnce() {
        var delivery = ChunkDelivery(expected: Self.expected, isSharded: false)
        let doubled = found([.entityMetricEvents: Tally(rows: 24, checksum: 132)])
        #expect(delivery.looked(found: doubled) == .act([.optimize(.entityMetricEvents)]))
        #expect(delivery.looked(found: doubled) == .surplus(.entityMetricEvents))
    }

    @Test func otherRowsInTheRightNumberAreNotTakenForTheChunk() {
        var delivery = ChunkDelivery(expected: Self.expected, isSharded: false)
        let other = found([.entityMetricEvents: Tally(rows: 12, checksum: 67)])
        #expect(delivery.looked(found: other) == .act([.optimize(.entityMetricEvents)]))
    }

    @Test func aPartOfTheRowsIsRefusedBeforeAnythingIsInserted() {
        var delivery = ChunkDelivery(expected: Self.expected, isSharded: false)
        let pieces = [MirrorTable.entityMetricEvents: Tally(rows: 5, checksum: 15)]
        #expect(delivery.looked(found: pieces) == .partial(.entityMetricEvents))
    }

    // MARK: Clusters

    @Test func whatSomeShardsHaveIsSentAgainAndThenSoThatTheyDoNotKnowIt() {
        var delivery = ChunkDelivery(expected: Self.expected, isSharded: true)
        let half = found([.entityMetricEvents: Tally(rows: 5, checksum: 15)])
        #expect(delivery.looked(found: half) == .act([.insert(.entityMetricEvents, isRepeated: false)]))
        #expect(delivery.looked(found: half) == .act([.insert(.entityMetricEvents, isRepeated: true)]))
        var doubled = Self.expected
        doubled[.entityMetricEvents]?.isDoubled = true
        #expect(delivery.looked(found: doubled) == .act([.optimize(.entityMetricEvents)]))
        #expect(delivery.looked(found: Self.expected) == .complete)
    }

    @Test func thePiecesOfAChunkAreFoundOnAClusterToo() {
        var delivery = ChunkDelivery(expected: Self.expected, isSharded: true)
        var pieces = Tally(rows: 5, checksum: 15)
        pieces.isDivided = true
        #expect(delivery.looked(found: found([.entityMetricEvents: pieces])) == .partial(.entityMetricEvents))
        // All of them, and the same in sum: nothing was left out.
        var whole = Self.expected
        whole[.entityMetricEvents]?.isDivided = true
        #expect(delivery.looked(found: whole) == .complete)
    }
}
