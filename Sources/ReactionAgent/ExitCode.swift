internal import Pipeline
internal import PostgresSource

/// How the commands end; docs/agent.md lists them. The numbers are those of sysexits.h where one fits.
public enum ExitCode: Int32, Sendable, CaseIterable {
    case success = 0
    /// A check failed, PostgreSQL refused what was asked of it, or something unexpected happened.
    case failure = 1
    /// The command line is wrong.
    case usage = 64
    /// A server cannot be reached.
    case unavailable = 69
    /// A setting or a privilege is wrong, the extension is missing or newer than the agent, or PostgreSQL is a standby or behind a
    /// pooler.
    case configuration = 78

    public init(_ error: any Error) {
        self =
            switch error {
            case is SettingsError, is IncompatibleExtension: .configuration
            case let error as PostgresError: Self(error)
            case is CacheError: .unavailable
            case let error as SinkError: error.status == 0 ? .unavailable : .failure
            default: .failure
            }
    }

    private init(_ error: PostgresError) {
        self =
            switch (error.disposition, error.sqlState.prefix(2)) {
            case (.reconnect, _): .unavailable
            // The agent's own finding: a standby, a pooler, a password.
            case (.stop, ""): .configuration
            case (.retry, ""): .unavailable
            // Who may connect, to which database, and what is in it.
            case (_, "28"), (_, "3D"), (_, "3F"): .configuration
            case _ where error.sqlState == "42501": .configuration
            default: .failure
            }
    }

    /// What a command says when an error has ended it: of PostgreSQL's, detail and hint on lines of their own.
    public static func explanation(of error: any Error) -> String {
        guard let error = error as? PostgresError, !error.sqlState.isEmpty else { return "\(error)" }
        var lines = [error.message]
        if let detail = error.detail {
            // The message has it in parentheses, too.
            lines = [String(error.message.dropLast(detail.count + 3)), "detail: " + detail.indented]
        }
        if let hint = error.hint { lines.append("hint: " + hint.indented) }
        return lines.joined(separator: "\n")
    }
}

extension String {
    /// Lines after the first stand below it.
    fileprivate var indented: String { replacing("\n", with: "\n        ") }
}
