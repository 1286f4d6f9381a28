internal import Logging
internal import PostgresSource
internal import ServiceLifecycle

/// While this agent leads: has compared reads digested, every few seconds while a type is in phase `dual_read`.
struct ComparedReadsService: Service {
    /// Between two looks, and with nothing to look at.
    static let interval: Duration = .seconds(5)
    static let idleInterval: Duration = .seconds(10)
    /// Between two looks at the phases, which another service knows.
    static let phaseInterval: Duration = .seconds(1)

    let reads: ComparedReads
    let metrics: Metrics
    let logger: Logger

    func run() async throws {
        await withGracefulShutdownHandler {
            await work()
        } onGracefulShutdown: {
            reads.interrupt()
        }
        await reads.close()
    }

    /// Returns whether there is more to come.
    private func digest() async -> Bool {
        guard metrics.role == .leading else {
            await reads.close()
            return false
        }
        do throws(PostgresError) {
            return try await reads.digest()
        } catch {
            logger.warning("compared reads not digested", metadata: ["error": "\(error)"])
            return false
        }
    }

    private func work() async {
        while !Task.isShuttingDownGracefully, !Task.isCancelled {
            let phases = metrics.phases
            let until = ContinuousClock.now + (await digest() ? Self.interval : Self.idleInterval)
            // A type that has come into another phase is looked at at once.
            while ContinuousClock.now < until, metrics.phases == phases, !Task.isShuttingDownGracefully,
                !Task.isCancelled
            {
                try? await cancelWhenGracefulShutdown { try await Task.sleep(for: Self.phaseInterval) }
            }
        }
    }
}
