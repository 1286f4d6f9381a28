internal import Pipeline
public import PostgresSource
internal import ReactionModel
internal import Synchronization

/// One match of one type, from its row in `reactions.match_run` to what came of it.
public struct RecordedMatch: Sendable {
    public struct Outcome: Sendable {
        public var run: Int64
        public var target: MatchTarget
        public var result: MatchResult
        /// Reactions for which an event was written.
        public var repaired: Int64 = 0

        public var left: Int64 { result.faults - repaired }
    }

    /// Between two notes of how far the match is.
    private static let interval: Duration = .seconds(1)

    private let settings: MatchSettings
    private let postgres: PostgresSettings
    private let clickHouse: ClickHouseSettings
    /// Has the lock.
    private let source: MatchSource

    public init(
        settings: MatchSettings, postgres: PostgresSettings, clickHouse: ClickHouseSettings, source: MatchSource
    ) {
        self.settings = settings
        self.postgres = postgres
        self.clickHouse = clickHouse
        self.source = source
    }

    /// - Parameter progress: what was found so far, and the rows that are to be compared, about.
    public func run(
        _ entityType: String, _ scope: MatchSource.Scope = .full,
        progress: @escaping @Sendable (MatchResult, Int64) async -> Void
    ) async throws -> Outcome {
        // First of all: what keeps a match from its beginning is kept with its run, and is not tried again at once.
        let run = try await source.begin(entityType, scope)
        do {
            let target = try await source.target(entityType)
            let match = TableMatch(target: target, settings: settings, postgres: postgres, clickHouse: clickHouse)
            let expected = scope == .full ? try await match.expected() : 0
            try await source.planned(run, target, expected: expected)
            let noted = Mutex(ContinuousClock.now)
            let note: TableMatch.Progress = { result in
                await progress(result, expected)
                let isDue = noted.withLock { noted in
                    guard .now - noted > Self.interval else { return false }
                    noted = .now
                    return true
                }
                if isDue { try await source.progressed(run, compared: result.compared) }
            }
            let result =
                switch scope {
                case .full: try await match.run(progress: note)
                case .recent: try await match.runRecent(since: since(target), progress: note)
                }
            try await source.store(result.differences, of: run)
            try await source.finish(
                run, target, compared: result.compared, counts: result.counts, inFlight: result.inFlight)
            return Outcome(run: run, target: target, result: result)
        } catch {
            // A cancelled match, or one whose session has ended, is as unfinished without a word on it.
            if !(error is CancellationError) { try? await source.failed(run, "\(error)") }
            throw error
        }
    }

    private func since(_ target: MatchTarget) throws -> UInt64 {
        guard target.asOf == nil else {
            throw MatchSource.Problem(
                description:
                    "the table of entity type \(target.type.name) takes no more writes: nothing in it is recent")
        }
        guard let since = target.lastSeen else {
            throw MatchSource.Problem(
                description:
                    "entity type \(target.type.name) was never matched: a recent match goes on from the last one")
        }
        return since
    }

    /// Writes an event for each difference that one can repair.
    public func repair(_ outcome: inout Outcome) async throws {
        let keys = outcome.result.differences.filter(\.reason.isRepairable).map(\.key)
        for start in stride(from: 0, to: keys.count, by: MatchSource.repairedAtOnce) {
            let some = Array(keys[start..<min(start + MatchSource.repairedAtOnce, keys.count)])
            try await source.repair(some, outcome.target, of: outcome.run)
            outcome.repaired += Int64(some.count)
        }
    }
}
