internal import Logging
public import Pipeline
public import PostgresSource
internal import ReactionModel

/// What keeps the entities that Redis holds: the servers it talks to and its settings.
public struct EntityServices: Sendable {
    public struct Settings: Sendable {
        public var tiering: Tiering
        /// How long Redis keeps an entity that nobody changes.
        public var ttl: Duration
        /// Entities that are read of ClickHouse.
        public var rebuildsPerSecond: Int

        public init(tiering: Tiering = Tiering(), ttl: Duration = .seconds(86_400), rebuildsPerSecond: Int = 1_000) {
            self.tiering = tiering
            self.ttl = ttl
            self.rebuildsPerSecond = rebuildsPerSecond
        }
    }

    let postgres: PostgresSettings
    let redis: RedisSettings
    let clickHouse: ClickHouseSettings
    let settings: Settings

    public init(
        postgres: PostgresSettings, redis: RedisSettings, clickHouse: ClickHouseSettings, settings: Settings
    ) {
        self.postgres = postgres
        self.redis = redis
        self.clickHouse = clickHouse
        self.settings = settings
    }

    /// For one term: what counts its batches, and what reads entities meanwhile.
    func begin(
        _ term: PostgresSource.Term, deliverer: Deliverer, sink: any Sink, longestBackoff: Duration, metrics: Metrics,
        logger: Logger
    ) async throws -> (Counting, Rebuilder) {
        let session = PostgresSource(settings: postgres, as: "entities")
        try await session.open()
        let counter = EntityCounter(
            redis: redis, systemIdentifier: term.systemIdentifier, timeline: term.timeline, keyPrefix: term.keyPrefix,
            settings: .init(tiering: settings.tiering, ttl: settings.ttl), metrics: metrics, logger: logger,
            proveLeading: { try await deliverer.proveLeading() })
        _ = await counter.use(try await session.catalog())
        let store = EntityStore(clickHouse)
        return (
            Counting(catalog: session, deliverer: deliverer, sink: sink, store: store, counter: counter),
            Rebuilder(
                postgres: session, deliverer: deliverer, store: EntityStore(clickHouse), counter: counter,
                entitiesPerSecond: settings.rebuildsPerSecond, longestBackoff: longestBackoff, metrics: metrics,
                logger: logger)
        )
    }
}
