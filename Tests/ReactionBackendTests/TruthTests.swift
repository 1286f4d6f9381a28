import CReactionsBoundary
import ClickHouseStore
import Testing

@testable import ReactionBackend

@Suite struct TruthTests {
    private func event(_ entity: Int64, _ version: Int64, set: Int32 = 0, clear: Int32 = 0) -> rx_event {
        rx_event(user_id: 1, entity_id: entity, version: version, set_mask: set, clear_mask: clear)
    }

    private func fields(_ truth: Truth) -> [Int64: String] {
        var fields: [Int64: String] = [:]
        for entry in truth.entries {
            var text: [UInt8] = []
            truth.appendField(of: entry, to: &text)
            fields[entry.entityID] = String(decoding: text, as: UTF8.self)
        }
        return fields
    }

    @Test func theTableDecidesAndTheOutboxDates() {
        let truth = Truth(
            tableIDs: [7, 3], flags: [5, 1],
            outbox: [event(7, 30, set: 4), event(7, 20, set: 1), event(9, 40, clear: 2), event(3, 9, set: 1)], floor: 10
        )
        #expect(fields(truth) == [3: "1", 7: "5:1:20:4:30", 9: "0:2:40"])
        #expect(truth.reactionCount == 2)
        #expect(truth.entries.map(\.entityID) == [3, 7, 9])
    }

    @Test func aNewerEventTakesItsKindsOverFromOlderMarks() {
        let truth = Truth(
            tableIDs: [1], flags: [6],
            outbox: [event(1, 20, set: 3), event(1, 30, set: 4, clear: 1), event(1, 40, set: 2)],
            floor: 0)
        #expect(fields(truth) == [1: "6:5:30:2:40"])
    }

    @Test func theNewerOfClickHouseAndOutboxDecidesPerKind() {
        func row(_ version: Int64, _ flag: Int32, isSet: Bool) -> TruthRow {
            TruthRow(entityID: 1, version: version, flag: flag, isSet: isSet)
        }
        let truth = Truth(
            rows: [row(50, 1, isSet: false), row(8, 2, isSet: true), row(5, 4, isSet: true)],
            outbox: [event(1, 30, set: 1), event(1, 60, clear: 2), event(1, 9, clear: 4)], floor: 10)
        // Kind 1 was taken away after the outbox's event; kind 2 by the outbox; the event at 9 is at or below the floor.
        #expect(fields(truth) == [1: "4:1:50:2:60"])
    }

    @Test func aBitInBothMasksEndsSet() {
        let truth = Truth(rows: [], outbox: [event(1, 20, set: 1, clear: 3)], floor: 0)
        #expect(fields(truth) == [1: "1:3:20"])
    }

    @Test func anEntityWithoutAReactionIsNone() {
        let truth = Truth(tableIDs: [2, 4], flags: [1, 1], outbox: [], floor: 77)
        #expect([1, 2, 3, 4, 5].map { truth.entry(of: $0).flags } == [0, 1, 0, 1, 0])
        #expect(Truth(rows: [], outbox: [], floor: 0).entry(of: 1).flags == 0)
    }
}
