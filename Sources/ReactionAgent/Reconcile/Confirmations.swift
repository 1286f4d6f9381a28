internal import ClickHouseStore
internal import Pipeline
internal import PostgresSource

/// Whether ClickHouse can be believed: a server that was restarted may have lost what it had confirmed, and the mirror sends it again.
struct Confirmations {
    let source: ReconcileSource
    let sink: ClickHouseSink

    /// When the server started that has all that was confirmed of the batches that are kept, in unix seconds; nil if it is not known to.
    func verifiedStart() async throws -> Int64? {
        let started = try await sink.connect().startedAt
        let batches = try await source.batches(confirmedBefore: started + Deliverer.clockSkew)
        for some in batches.pieces(of: Deliverer.batchesPerLook) {
            guard let first = some.first, let last = some.last else { continue }
            let found = try await sink.rows(of: first.number...last.number)
            for batch in some where batch.mirrored == nil || batch.mirrored != found[batch.number] { return nil }
        }
        return started
    }

    /// Whether what was asked meanwhile was answered by that server.
    func isStill(_ started: Int64?) async throws -> Bool {
        guard let started else { return false }
        return try await sink.connect().startedAt == started
    }
}
