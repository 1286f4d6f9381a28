internal import Logging
internal import Pipeline
internal import PostgresSource

/// The sessions of a service that works while this agent leads: one after the other, with growing pauses after those that failed.
struct LeaderSessions {
    /// Of the service, for the log.
    let name: String
    let source: MatchSource
    private let settings: MatchService.Settings
    private let metrics: Metrics
    private let logger: Logger
    private var backoff: Backoff

    init(_ name: String, _ source: MatchSource, settings: MatchService.Settings, metrics: Metrics, logger: Logger) {
        self.name = name
        self.source = source
        self.settings = settings
        self.metrics = metrics
        self.logger = logger
        backoff = Backoff(limit: settings.longestBackoff)
    }

    /// Runs the work again and again, until the task is cancelled.
    ///
    /// - Parameter work: in an open session, until this agent no longer leads. It calls `gotThrough` for each of its rounds.
    mutating func forever(_ work: (inout LeaderSessions) async throws -> Void) async throws {
        while true {
            while metrics.role != .leading { try await Task.sleep(for: settings.interval) }
            do {
                try await source.open()
                try await work(&self)
                await source.close()
            } catch {
                await source.close()
                if error is CancellationError { throw error }
                logger.error("\(name): session ended", metadata: ["error": "\(error)"])
                let isStop = (error as? PostgresError)?.disposition == .stop
                try await Task.sleep(for: backoff.failed(slowly: isStop))
            }
        }
    }

    mutating func gotThrough() {
        backoff.succeeded()
    }
}
