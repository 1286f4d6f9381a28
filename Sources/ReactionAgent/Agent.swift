internal import CMalloc
public import Logging
public import Pipeline
internal import PostgresSource
internal import ServiceLifecycle
internal import UnixSignals

/// The running agent: its services and the signals that end them.
public enum Agent {
    /// What a blocking call may take beyond the shutdown timeout.
    static let grace: Duration = .seconds(5)

    /// A chunk's buffers go back to the system when they are freed. Left alone, the C library raises this limit to the largest block
    /// that it sees freed, and the heap of every thread then keeps holes of that size.
    static let largestHeapBlock: Int32 = 256 << 10

    static func prepareMemory() {
        mallopt(M_MMAP_THRESHOLD, largestHeapBlock)
    }

    /// Returns after SIGTERM or SIGINT, or throws what cannot be helped by trying again.
    public static func run(_ settings: Settings, sink: any Sink, logger: Logger) async throws {
        prepareMemory()
        let metrics = Metrics()
        let mirror = MirrorService(
            settings: .init(mirror: settings.mirror, sinkTimeout: settings.clickHouse.requestTimeout),
            source: PostgresSource(settings: settings.postgres, limits: settings.limits), sink: sink, metrics: metrics,
            logger: logger,
            makeCache: { term in
                RedisCache(
                    settings: settings.redis, systemIdentifier: term.systemIdentifier, timeline: term.timeline,
                    keyPrefix: term.keyPrefix)
            },
            entities: EntityServices(
                postgres: settings.postgres, redis: settings.redis, clickHouse: settings.clickHouse,
                settings: settings.entities))
        let backfill = BackfillService(
            settings: settings.backfill, postgres: settings.postgres, clickHouse: settings.clickHouse, logger: logger)
        let compared = ComparedReadsService(
            reads: ComparedReads(settings: settings.postgres), metrics: metrics, logger: logger)
        let match = MatchService(
            settings: settings.matchService, postgres: settings.postgres, clickHouse: settings.clickHouse,
            metrics: metrics, logger: logger)
        let watch = WatchService(
            settings: settings.matchService, postgres: settings.postgres, metrics: metrics, logger: logger)
        let reconcile = ReconcileService(
            settings: settings.reconcileService, postgres: settings.postgres, redis: settings.redis,
            clickHouse: settings.clickHouse, metrics: metrics, logger: logger)
        let erasure = ErasureService(
            erasures: Erasures(settings: settings.postgres), clickHouse: settings.clickHouse, redis: settings.redis,
            metrics: metrics, logger: logger)
        let phases = PhaseService(postgres: settings.postgres, metrics: metrics, logger: logger)
        let rollback = RollBackService(
            postgres: settings.postgres, clickHouse: settings.clickHouse,
            longestBackoff: settings.mirror.longestBackoff, metrics: metrics, logger: logger)
        let limit = ShutdownLimit(limit: settings.mirror.shutdownTimeout + grace, logger: logger)
        let redisWatch = RedisWatchService(redis: settings.redis, metrics: metrics)
        let web: [any Service] = settings.httpPort.map { [WebService(port: $0, metrics: metrics)] } ?? []
        // Shut down from the last to the first: the web page tells of the mirror to its end.
        try await ServiceGroup(
            services: web + [
                compared, erasure, phases, rollback, mirror, backfill, match, reconcile, watch, redisWatch, limit,
            ],
            gracefulShutdownSignals: [.sigterm, .sigint],
            logger: logger
        ).run()
    }
}
