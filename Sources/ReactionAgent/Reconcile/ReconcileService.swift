internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ServiceLifecycle

/// While this agent leads: reconciles Redis as it becomes due.
struct ReconcileService: Service {
    struct Settings: Sendable {
        var reconcile: ReconcileSettings
        /// Between two reconciliations; nil for none by itself.
        var interval: Duration?
        var longestBackoff: Duration
    }

    /// Between two looks whether it is due.
    private static let pause: Duration = .seconds(5)

    let settings: Settings
    let postgres: PostgresSettings
    let redis: RedisSettings
    let clickHouse: ClickHouseSettings
    let metrics: Metrics
    let logger: Logger

    func run() async throws {
        let source = ReconcileSource(settings: postgres)
        metrics.update { $0.reconcileInterval = settings.interval.map { $0 / .seconds(1) } }
        try? await cancelWhenGracefulShutdown {
            var backoff = Backoff(limit: settings.longestBackoff)
            while true {
                while metrics.role != .leading { try await Task.sleep(for: Self.pause) }
                do {
                    try await source.open()
                    var shown: Int64?
                    while metrics.role == .leading {
                        // A command may have made it.
                        let newest = try await source.newestRun()
                        if newest != shown {
                            metrics.update { [report = try await source.report()] in $0.reconciliation = report }
                            shown = newest
                        }
                        if let interval = settings.interval, try await source.isDue(every: interval) {
                            try await reconcile(source)
                        }
                        backoff.succeeded()
                        try await Task.sleep(for: min(Self.pause, settings.interval ?? Self.pause))
                    }
                    await source.close()
                } catch {
                    await source.close()
                    if error is CancellationError { throw error }
                    logger.error("reconciliation: session ended", metadata: ["error": "\(error)"])
                    let isStop = (error as? PostgresError)?.disposition == .stop
                    try await Task.sleep(for: backoff.failed(slowly: isStop))
                }
            }
        }
    }

    private func reconcile(_ source: ReconcileSource) async throws {
        guard try await source.takeLock() else { return }
        let recorded = RecordedReconciliation(
            settings: settings.reconcile, redis: redis, clickHouse: clickHouse, source: source)
        do {
            let outcome = try await recorded.run()
            let tally = outcome.tally
            logger.log(
                level: tally.found > tally.repaired ? .error : .notice, "Redis reconciled",
                metadata: [
                    "run": "\(outcome.run)", "keys": "\(tally.scanned)", "verified": "\(tally.verified)",
                    "found": "\(tally.found)", "repaired": "\(tally.repaired)", "kept": "\(tally.kept)",
                ])
            metrics.update { $0.finishedReconciliations += 1 }
        } catch let error as CancellationError {
            throw error
        } catch {
            // If it was this session that ended, the next statement says so.
            metrics.update { $0.failedReconciliations += 1 }
            logger.warning("reconciliation failed", metadata: ["error": "\(error)"])
        }
        try await source.releaseLock()
    }
}
