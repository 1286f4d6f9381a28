internal import Glibc
internal import Pipeline
internal import PostgresSource
internal import ReactionModel
internal import Synchronization

/// One reconciliation, from its row in `reactions.reconcile_run` to what came of it.
struct RecordedReconciliation: Sendable {
    struct Outcome: Sendable {
        var run: Int64
        var tally: ReconcileTally
    }

    /// Between two notes of how far it is.
    private static let interval: Duration = .seconds(1)

    let settings: ReconcileSettings
    let redis: RedisSettings
    let clickHouse: ClickHouseSettings
    /// Has the lock.
    let source: ReconcileSource

    /// - Parameters:
    ///   - entityTypes: empty for all.
    ///   - progress: what was found so far.
    func run(
        _ entityTypes: [String] = [], isDry: Bool = false, isDeep: Bool = false,
        progress: @escaping @Sendable (ReconcileTally) async -> Void = { _ in }
    ) async throws -> Outcome {
        let place = try await source.place()
        let names = entityTypes.isEmpty ? place.types.map(\.name) : entityTypes
        for name in names where !place.types.contains(where: { $0.name == name }) {
            throw ReconcileCommand.Problem(description: "entity type \(name) does not exist")
        }
        let lastLook = try await source.lastLook()
        let run = try await source.begin(names, isDry: isDry, isDeep: isDeep)
        var reconciliation = Reconciliation(
            settings: settings, options: .init(entityTypes: Set(names), isDry: isDry, isDeep: isDeep), place: place,
            source: source, redis: redis, clickHouse: clickHouse, lastLook: lastLook, now: { Int64(time(nil)) })
        let noted = Mutex(ContinuousClock.now)
        do {
            try await reconciliation.run { tally in
                await progress(tally)
                let isDue = noted.withLock { noted in
                    guard .now - noted > Self.interval else { return false }
                    noted = .now
                    return true
                }
                if isDue { try await source.progressed(run, tally) }
            }
            try await source.finish(run, reconciliation.tally)
            return Outcome(run: run, tally: reconciliation.tally)
        } catch {
            // A cancelled run, or one whose session has ended, is as unfinished without a word on it.
            if !(error is CancellationError) { try? await source.failed(run, "\(error)") }
            throw error
        }
    }
}
