internal import Pipeline
internal import PostgresSource

/// How the commands end; docs/agent.md lists them. The numbers are those of sysexits.h where one fits.
public enum ExitCode: Int32, Sendable, CaseIterable {
    case success = 0
    /// A check failed or something unexpected happened.
    case failure = 1
    /// The command line is wrong.
    case usage = 64
    /// A server cannot be reached.
    case unavailable = 69
    /// A setting is wrong, the extension is missing or newer than the agent, or PostgreSQL is a standby or behind a pooler.
    case configuration = 78

    public init(_ error: any Error) {
        self =
            switch error {
            case is SettingsError, is IncompatibleExtension: .configuration
            case let error as PostgresError: error.disposition == .stop ? .configuration : .unavailable
            case is CacheError: .unavailable
            case let error as SinkError: error.status == 0 ? .unavailable : .failure
            default: .failure
            }
    }
}
