internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ServiceLifecycle

/// While this agent leads: matches tables with ClickHouse as it becomes due.
struct MatchService: Service {
    struct Settings: Sendable {
        var match: MatchSettings
        /// Between two matches of what is recent, and of everything; nil for none by itself.
        var recentInterval: Duration?
        var fullInterval: Duration?
        /// Between two looks at the capture triggers.
        var watchInterval: Duration
        var longestBackoff: Duration

        /// Between two looks whether there is something to do.
        var interval: Duration {
            min(max(min(watchInterval, recentInterval ?? .seconds(5)), .milliseconds(250)), .seconds(5))
        }
    }

    let settings: Settings
    let postgres: PostgresSettings
    let clickHouse: ClickHouseSettings
    let metrics: Metrics
    let logger: Logger

    /// The last wish for which everything was matched, and when to try again.
    private struct Answer {
        var wish: String
        var until: ContinuousClock.Instant
    }

    func run() async throws {
        try? await cancelWhenGracefulShutdown {
            var sessions = LeaderSessions(
                "match", MatchSource(settings: postgres), settings: settings, metrics: metrics, logger: logger)
            // Outlives a session, so that a match that ends them is not tried at once again.
            var answer: Answer?
            try await sessions.forever { try await lead(&$0, &answer) }
        }
    }

    private func lead(_ sessions: inout LeaderSessions, _ answer: inout Answer?) async throws {
        let source = sessions.source
        while metrics.role == .leading {
            let wish = try await source.wish().flatMap { wish in
                answer.map { $0.wish != wish || $0.until < .now } ?? true ? wish : nil
            }
            if try await isDue(wish, source), try await source.takeLock() {
                if let wish, let interval = settings.fullInterval {
                    let outcome = try await matchAll(source)
                    answer = Answer(
                        wish: wish, until: .now + (outcome == .failed ? MatchSource.retryInterval : interval))
                    if outcome == .same { try await source.fulfil(wish) }
                }
                for entityType in try await source.due(.full, every: settings.fullInterval) {
                    _ = try await match(entityType, .full, source)
                }
                for entityType in try await source.due(.recent, every: settings.recentInterval) {
                    _ = try await match(entityType, .recent, source)
                }
                try await source.releaseLock()
            }
            sessions.gotThrough()
            try await Task.sleep(for: settings.interval)
        }
    }

    private func isDue(_ wish: String?, _ source: MatchSource) async throws -> Bool {
        if wish != nil, settings.fullInterval != nil { return true }
        if try await !source.due(.full, every: settings.fullInterval).isEmpty { return true }
        return try await !source.due(.recent, every: settings.recentInterval).isEmpty
    }

    private enum Outcome: Int {
        case same
        case different
        /// Or not judged in full. Kept with its run, and tried again later.
        case failed
    }

    /// The worst of all types.
    private func matchAll(_ source: MatchSource) async throws -> Outcome {
        var worst = Outcome.same
        for entityType in try await source.attached(backfilled: true) {
            let outcome = try await match(entityType, .full, source)
            if outcome.rawValue > worst.rawValue { worst = outcome }
        }
        return worst
    }

    private func match(
        _ entityType: String, _ scope: MatchSource.Scope, _ source: MatchSource
    ) async throws -> Outcome {
        let match = RecordedMatch(
            settings: settings.match, postgres: postgres, clickHouse: clickHouse, source: source)
        do {
            let outcome = try await match.run(entityType, scope) { _, _ in }
            let result = outcome.result
            let counts = result.counts.map { "\($0.key.rawValue) \($0.value)" }.sorted().joined(separator: ", ")
            logger.log(
                level: result.faults > 0 ? .error : .notice,
                result.faults > 0 ? "table and ClickHouse differ" : "table and ClickHouse agree",
                metadata: [
                    "entity_type": "\(entityType)", "scope": "\(scope.rawValue)", "run": "\(outcome.run)",
                    "compared": "\(result.compared)", "differences": "\(counts)", "in_flight": "\(result.inFlight)",
                ])
            let reports = try await source.reports()
            metrics.update { $0.matches = reports }
            // What could not be judged may differ: it is looked at again soon.
            return result.faults > 0 ? .different : result.inFlight > 0 ? .failed : .same
        } catch let error as CancellationError {
            throw error
        } catch {
            // If it was this session that ended, the next statement says so.
            logger.warning(
                "match failed",
                metadata: ["entity_type": "\(entityType)", "scope": "\(scope.rawValue)", "error": "\(error)"])
            return .failed
        }
    }
}
