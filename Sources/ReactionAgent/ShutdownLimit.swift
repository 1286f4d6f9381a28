internal import Glibc
public import Logging
public import ServiceLifecycle

/// Ends the process if it has not ended by itself some time after it was asked to: a blocking call may still wait for a server.
///
/// Nothing is lost by it: what is under way is resumed as after a crash.
public struct ShutdownLimit: Service {
    private let limit: Duration
    private let logger: Logger

    public init(limit: Duration, logger: Logger) {
        self.limit = limit
        self.logger = logger
    }

    public func run() async throws {
        try await gracefulShutdown()
        let (limit, logger) = (limit, logger)
        Task.detached {
            try await Task.sleep(for: limit)
            logger.warning("not shut down within the limit: ending at once")
            exit(ExitCode.failure.rawValue)
        }
    }
}
