import ArgumentParser
import Foundation
import ReactionAgent

@main
struct Reactiond: AsyncParsableCommand {
    static let version = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "reactiond",
        abstract: "Mirrors the reactions of a PostgreSQL database into ClickHouse and keeps Redis in step.",
        discussion: """
            Settings come from --set, the environment (REACTIOND_REDIS_URL for redis.url), a YAML file and built-in \
            defaults, in this order. Exit codes: 0 done, 1 failed, 64 usage, 69 a server cannot be reached, \
            78 configuration.
            """,
        subcommands: [
            Run.self, InitClickHouse.self, Backfill.self, Match.self, Reconcile.self, ReadinessCommand.self,
            Advance.self,
            Rollback.self, Archive.self, Restore.self, Forget.self, Status.self, DoctorCommand.self, Version.self,
        ])

    static func main() async {
        do {
            var command = try parseAsRoot()
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch let error where isOwn(error) {
            FileHandle.standardError.write(Data("reactiond: \(ExitCode.explanation(of: error))\n".utf8))
            Foundation.exit(ExitCode(error).rawValue)
        } catch {
            exit(withError: error)
        }
    }

    /// Errors of the parser know their texts and exit codes themselves.
    private static func isOwn(_ error: any Error) -> Bool {
        !(error is CleanExit || error is ValidationError || error is ArgumentParser.ExitCode)
            && exitCode(for: error) == .failure
    }
}

/// What every command that talks to a server takes.
struct SettingsOptions: ParsableArguments {
    @Option(name: .shortAndLong, help: "YAML file with settings. Secrets in it are used only if its mode is 0600.")
    var config: String?

    @Option(name: .long, help: ArgumentHelp("A setting, which wins over environment and file.", valueName: "key=value"))
    var set: [String] = []

    func load() async throws -> Settings {
        try await Settings.load(file: config, assignments: set, environment: ProcessInfo.processInfo.environment)
    }
}
