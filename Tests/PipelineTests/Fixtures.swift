import Pipeline
import ReactionModel

func makeBatch(_ number: Int64, events: Int64 = 1, types: [Int16] = [1], hasRemovals: Bool = false) -> Batch {
    Batch(
        number: BatchNumber(rawValue: number), previous: nil, snapshot: Snapshot(xmin: 1, xmax: 1), events: events,
        checksum: 0, chunkEvents: 10, typeIDs: types, hasRemovals: hasRemovals, catalog: [:])
}

func makeEvent(
    _ version: Int64, set: Int32 = 1, clear: Int32 = 0, isDeltaKnown: Bool = true, user: Int64 = 1, entity: Int64 = 1,
    scope: EventScope = .reaction
) -> Event {
    Event(
        version: Version(rawValue: version), scope: scope, typeID: 1, userID: user, entityID: entity, setMask: set,
        clearMask: clear, isDeltaKnown: isDeltaKnown, createdAt: 0, writtenAt: 0)
}

extension Mirror.Action {
    /// Its name and number, to compare.
    var summary: String {
        switch self {
        case .look: "look"
        case .setAsleep(let isAsleep): isAsleep ? "sleep" : "wake"
        case .awaitBell: "awaitBell"
        case .apply(let batch): "apply \(batch.number.rawValue)"
        case .raiseEpochs(let types, let offer, let through):
            "raise \(types.sorted()) through \(through.rawValue)" + (offer == .changes ? "" : " for \(offer)")
        case .remove(let batch): "remove \(batch.number.rawValue)"
        case .count(let batch): "count \(batch.number.rawValue)"
        case .send(let batch): "send \(batch.number.rawValue)"
        case .finish(let batch, _): "finish \(batch.number.rawValue)"
        case .wait: "wait"
        case .stop: "stop"
        }
    }
}

extension [Mirror.Action] {
    /// Without the waits.
    var names: [String] { map(\.summary).filter { $0 != "wait" } }
    var waits: [Duration] {
        compactMap { action in if case .wait(let until) = action { until } else { nil } }
    }
}

extension Mirror {
    /// Confirms the batch and lets it be counted at once: what follows from both.
    mutating func batchCounted(_ number: BatchNumber, now: Duration) -> [Action] {
        let confirmed = batchConfirmed(number, lag: LagHistogram(), now: now)
        return confirmed.filter { $0.summary != "count \(number.rawValue)" } + offered(.counts, of: number, now: now)
    }
}
