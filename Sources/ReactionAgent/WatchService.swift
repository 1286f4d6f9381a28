internal import Logging
internal import PostgresSource
internal import ServiceLifecycle

/// While this agent leads: looks how old the outbox is, what the backends have counted, whether capture is what it was, and what the last
/// matches have left.
///
/// In a session of its own, beside the matches, of which one may take long.
struct WatchService: Service {
    let settings: MatchService.Settings
    let postgres: PostgresSettings
    let metrics: Metrics
    let logger: Logger

    func run() async throws {
        try? await cancelWhenGracefulShutdown {
            var sessions = LeaderSessions(
                "watch", MatchSource(settings: postgres, as: "watch"), settings: settings, metrics: metrics,
                logger: logger)
            try await sessions.forever { sessions in
                // What was seen is old when nobody looks any more.
                defer {
                    metrics.update {
                        $0.outboxAge = nil
                        $0.backends = nil
                    }
                }
                try await watch(&sessions)
            }
        }
    }

    private func watch(_ sessions: inout LeaderSessions) async throws {
        let source = sessions.source
        var watched: ContinuousClock.Instant?
        while metrics.role == .leading {
            let age = try await source.lag() / .seconds(1)
            let backends = try await source.backendCounters()
            metrics.update {
                $0.outboxAge = age
                $0.backends = backends
            }
            if watched.map({ .now - $0 > settings.watchInterval }) ?? true {
                for (entityType, problem) in try await source.watchCapture() {
                    logger.error(
                        "capture was altered: changes may be lost; a full match is ordered",
                        metadata: ["entity_type": "\(entityType)", "problem": "\(problem)"])
                }
                let reports = try await source.reports()
                metrics.update { $0.matches = reports }
                watched = .now
            }
            sessions.gotThrough()
            try await Task.sleep(for: settings.interval)
        }
    }
}
