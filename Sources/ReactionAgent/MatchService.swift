internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ServiceLifecycle

/// While this agent leads: looks whether capture is what it was, and matches tables with ClickHouse as it becomes due.
struct MatchService: Service {
    struct Settings: Sendable {
        var match: MatchSettings
        /// Between two matches of what is recent, and of everything; nil for none by itself.
        var recentInterval: Duration?
        var fullInterval: Duration?
        /// Between two looks at the capture triggers.
        var watchInterval: Duration
        var longestBackoff: Duration
    }

    /// Between two looks whether there is something to do, at most and at least.
    static let intervals: ClosedRange<Duration> = .milliseconds(250) ... .seconds(5)

    let settings: Settings
    let postgres: PostgresSettings
    let clickHouse: ClickHouseSettings
    let metrics: Metrics
    let logger: Logger

    private var interval: Duration {
        let shortest = min(settings.watchInterval, settings.recentInterval ?? Self.intervals.upperBound)
        return min(max(shortest, Self.intervals.lowerBound), Self.intervals.upperBound)
    }

    func run() async throws {
        try? await cancelWhenGracefulShutdown { try await serve() }
    }

    private func serve() async throws {
        let source = MatchSource(settings: postgres)
        var backoff = Backoff(limit: settings.longestBackoff)
        while !Task.isCancelled {
            while metrics.role != .leading { try await Task.sleep(for: interval) }
            do {
                try await source.open()
                try await lead(source) { backoff.succeeded() }
            } catch is CancellationError {
                break
            } catch {
                logger.error("match: session ended", metadata: ["error": "\(error)"])
                let isStop = (error as? PostgresError)?.disposition == .stop
                try await Task.sleep(for: backoff.failed(slowly: isStop))
            }
            await source.close()
        }
    }

    private func lead(_ source: MatchSource, began: () -> Void) async throws {
        var watched: ContinuousClock.Instant?
        /// The last wish for which everything was matched, and when to try again.
        var answered: (wish: String, until: ContinuousClock.Instant)?
        while metrics.role == .leading {
            if watched.map({ .now - $0 > settings.watchInterval }) ?? true {
                for (entityType, problem) in try await source.watchCapture() {
                    logger.error(
                        "capture was altered: changes may be lost; a full match is ordered",
                        metadata: ["entity_type": "\(entityType)", "problem": "\(problem)"])
                }
                try await report(source)
                watched = .now
            }
            let lag = try await source.lag()
            metrics.update { $0.outboxAge = lag / .seconds(1) }
            let wish = try await source.wish().flatMap { wish in
                answered.map { $0.wish != wish || $0.until < .now } ?? true ? wish : nil
            }
            if try await isDue(wish, source), try await source.takeLock() {
                if let wish, let interval = settings.fullInterval {
                    let outcome = try await matchAll(source)
                    if outcome == .same { try await source.fulfil(wish) }
                    answered = (wish, .now + (outcome == .failed ? MatchSource.retryInterval : interval))
                }
                for entityType in try await source.due(.full, every: settings.fullInterval) {
                    _ = try await match(entityType, .full, source)
                }
                for entityType in try await source.due(.recent, every: settings.recentInterval) {
                    _ = try await match(entityType, .recent, source)
                }
                try await source.releaseLock()
            }
            began()
            try await Task.sleep(for: interval)
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
            try await report(source)
            // What could not be judged may differ: it is looked at again soon.
            return result.faults > 0 ? .different : result.inFlight > 0 ? .failed : .same
        } catch let error as PostgresError where error.disposition == .reconnect {
            throw error
        } catch let error as CancellationError {
            throw error
        } catch {
            logger.warning(
                "match failed",
                metadata: ["entity_type": "\(entityType)", "scope": "\(scope.rawValue)", "error": "\(error)"])
            return .failed
        }
    }

    private func report(_ source: MatchSource) async throws {
        let reports = try await source.reports()
        metrics.update { $0.matches = reports }
    }
}
