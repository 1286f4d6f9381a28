internal import Pipeline
internal import PostgresSource
public import ReactionModel

/// Reads chunks for the lanes, each once as long as they follow each other closely, and the next one ahead: while a chunk is being
/// inserted, or counted, PostgreSQL sorts and sends what follows it.
actor ChunkReader {
    private struct Kept {
        var batch: BatchNumber
        var after: Version
        var events: Task<[Event], any Error>
    }

    /// The chunk in use and the one after it, for each of three lanes.
    private static let capacity = 6
    private let reader: BatchReader
    private var kept: [Kept] = []
    /// Formed and not finished, in order.
    private var announced: [Batch] = []
    /// The last batch that somebody has read to its end.
    private var readThrough = BatchNumber(rawValue: 0)

    init(reader: BatchReader) {
        self.reader = reader
    }

    /// Batches will be asked for in this order.
    func announce(_ batch: Batch) {
        guard batch.events > 0 else { return }
        let isNext = announced.last.map { $0.number <= readThrough } ?? true
        announced.append(batch)
        if isNext { _ = chunk(of: batch, after: .zero) }
    }

    /// The next events of the batch behind `version`, of which `count` events precede them; none at its end.
    func events(of batch: Batch, after version: Version, count: Int64) async throws -> [Event] {
        let events = try await chunk(of: batch, after: version).value
        guard let last = events.last else { return [] }
        if count + Int64(events.count) < batch.events {
            _ = chunk(of: batch, after: last.version)
        } else {
            readThrough = max(readThrough, batch.number)
            if let next = announced.first(where: { $0.number > batch.number }) { _ = chunk(of: next, after: .zero) }
        }
        return events
    }

    /// Nobody reads on in the batch for a while.
    func release(_ batch: BatchNumber) async {
        kept.removeAll { $0.batch == batch }
        await reader.release(batch)
    }

    /// Nobody reads the batch any more.
    func forget(_ batch: BatchNumber) {
        announced.removeAll { $0.number <= batch }
        kept.removeAll { $0.batch <= batch }
    }

    private func chunk(of batch: Batch, after version: Version) -> Task<[Event], any Error> {
        if let found = kept.first(where: { $0.batch == batch.number && $0.after == version }) { return found.events }
        if kept.count >= Self.capacity { kept.removeFirst() }
        let reader = reader
        let events = Task { try await reader.events(of: batch, after: version) }
        kept.append(Kept(batch: batch.number, after: version, events: events))
        return events
    }
}

/// The outbox no longer holds what the batch's row says: somebody has changed it. Nothing more can be mirrored for certain.
public struct OutboxDamage: Error, CustomStringConvertible {
    public var batch: BatchNumber

    public var description: String {
        "batch \(batch.rawValue) in the outbox differs from its row in reactions._batch"
    }
}
