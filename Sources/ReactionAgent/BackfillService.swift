public import Logging
public import Pipeline
public import PostgresSource
public import ServiceLifecycle

/// Brings the rows that attached tables had before their capture into ClickHouse, one table after the other.
///
/// Of several processes one holds the lock and works, the others wait for it. Everything that is done is in PostgreSQL, so whoever has the
/// lock next goes on with it.
public struct BackfillService: Service {
    public struct Settings: Sendable {
        /// Every type that is not backfilled; else those that were asked for (`reactiond backfill`).
        public var isAutomatic: Bool
        /// Ranges that are under way at the same time.
        public var lanes: Int
        public var limits: TableReading.Limits
        public var longestBackoff: Duration

        public init(isAutomatic: Bool, lanes: Int, limits: TableReading.Limits, longestBackoff: Duration) {
            self.isAutomatic = isAutomatic
            self.lanes = lanes
            self.limits = limits
            self.longestBackoff = longestBackoff
        }
    }

    /// Between two looks whether there is something to do.
    static let interval: Duration = .seconds(1)
    /// While a backfill waits for the mirror.
    static let shortInterval: Duration = .milliseconds(100)

    private let settings: Settings
    private let postgres: PostgresSettings
    private let clickHouse: ClickHouseSettings
    private let logger: Logger

    public init(settings: Settings, postgres: PostgresSettings, clickHouse: ClickHouseSettings, logger: Logger) {
        self.settings = settings
        self.postgres = postgres
        self.clickHouse = clickHouse
        self.logger = logger
    }

    public func run() async throws {
        try? await cancelWhenGracefulShutdown { try await serve() }
    }

    private func serve() async throws {
        let source = BackfillSource(settings: postgres)
        var backoff = Backoff(limit: settings.longestBackoff)
        while !Task.isCancelled {
            do {
                try await source.open()
                while try await !source.takeLock() { try await Task.sleep(for: Self.interval) }
                while true {
                    backoff.succeeded()
                    if settings.isAutomatic { try await source.beginLost() }
                    let pending = try await source.pending(all: settings.isAutomatic)
                    for entityType in pending { try await backfill(entityType, source) }
                    try await Task.sleep(for: pending.isEmpty ? Self.interval : Self.shortInterval)
                }
            } catch is CancellationError {
                break
            } catch {
                await source.close()
                logger.error("backfill: session ended", metadata: ["error": "\(error)"])
                let isStop = (error as? PostgresError)?.disposition == .stop
                try await Task.sleep(for: backoff.failed(slowly: isStop))
            }
        }
        await source.close()
    }

    /// Goes on with the backfill of a type as far as it goes now. A failure of the progress's session is thrown, every other one kept
    /// where the operator finds it.
    private func backfill(_ entityType: String, _ source: BackfillSource) async throws {
        guard let job = try await source.job(entityType) else { return }
        do {
            if !job.isRead {
                try await BackfillReading(
                    job: job, settings: settings, source: source, postgres: postgres, clickHouse: clickHouse,
                    logger: logger
                ).run()
            } else if job.completeBatch != nil, job.isCompleteBatchFinished {
                try await BackfillSealing(job: job, source: source, clickHouse: clickHouse, logger: logger).run()
            }
        } catch let error as SinkError {
            try await failed(entityType, error.message, source, slowly: error.disposition != .retry)
        } catch let error as PostgresError where error.disposition != .reconnect {
            try await failed(entityType, error.description, source, slowly: error.disposition == .stop)
        } catch let error as BackfillProblem {
            try await failed(entityType, error.description, source, slowly: true)
        }
    }

    private func failed(_ entityType: String, _ error: String, _ source: BackfillSource, slowly: Bool) async throws {
        logger.error("backfill failed", metadata: ["entity_type": "\(entityType)", "error": "\(error)"])
        try await source.failed(entityType, error)
        if slowly { try await Task.sleep(for: settings.longestBackoff) }
    }
}

/// Something that only an operator can put right.
struct BackfillProblem: Error, CustomStringConvertible {
    var description: String
}
