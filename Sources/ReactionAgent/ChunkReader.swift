internal import Pipeline
internal import PostgresSource
public import ReactionModel

/// Reads chunks for both lanes. They mostly follow each other closely, so the few last chunks are kept and read once.
actor ChunkReader {
    private struct Kept {
        var batch: BatchNumber
        var after: Version
        var events: [Event]
    }

    private static let capacity = 3
    private let source: PostgresSource
    private var kept: [Kept] = []

    init(source: PostgresSource) {
        self.source = source
    }

    /// The next events of the batch behind `version`; none at its end.
    func events(of batch: Batch, after version: Version) async throws -> [Event] {
        if let found = kept.first(where: { $0.batch == batch.number && $0.after == version }) { return found.events }
        let events = try await source.events(of: batch, after: version)
        if kept.count >= Self.capacity { kept.removeFirst() }
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
