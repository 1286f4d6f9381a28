import AgentTestSupport
import Logging
import Pipeline
import PostgresSource
import ServiceLifecycle

@testable import ReactionAgent

/// A mirror that runs for as long as the body does, then shuts down.
func withMirror(
    of database: OutboxDatabase, sink: MemorySink, cache: MemoryCache = MemoryCache(),
    limits: PostgresSource.BatchLimits = .init(), idle: Duration = .seconds(5),
    redisGiveUp: Duration = .milliseconds(200), _ body: (Metrics) async throws -> Void
) async throws {
    let metrics = Metrics()
    var settings = MirrorService.Settings(
        mirror: Mirror.Settings(
            idleBeforeSleep: idle, redisGiveUp: redisGiveUp, shutdownTimeout: .seconds(5),
            longestBackoff: .milliseconds(50)),
        sinkTimeout: .milliseconds(100))
    settings.checksExtension = false
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let group = ServiceGroup(
        services: [
            MirrorService(
                settings: settings, source: database.source(limits), sink: sink, metrics: metrics, logger: logger,
                makeCache: { _ in cache })
        ], logger: logger)
    async let running: Void = group.run()
    do {
        try await body(metrics)
    } catch {
        await group.triggerGracefulShutdown()
        try await running
        throw error
    }
    await group.triggerGracefulShutdown()
    try await running
}
