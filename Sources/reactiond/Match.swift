import ArgumentParser
import PostgresSource
import ReactionAgent

struct Match: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Compares attached tables with ClickHouse, reaction by reaction.",
        discussion: """
            What it finds is stored in reactions.match_run and reactions.differences. Ends with 1 if differences are left. \
            Writers are not disturbed, except shortly by each batch of repairs.
            """)

    @Option(help: "An entity type; may be given several times. Without it: every one that has a table.")
    var type: [String] = []

    @Flag(
        help:
            "Compare only what was written since the last match, found by the rows' transaction ids and in the outbox.")
    var recent = false

    @Flag(help: "Write an event for each difference, so that ClickHouse and Redis agree with the table.")
    var repair = false

    @Flag(help: "Show what --repair would write.")
    var dryRun = false

    @Option(help: "If more reactions of a type would be repaired, nothing of it is.")
    var maxRepairs: Int64 = 1000

    @OptionGroup var settings: SettingsOptions

    func validate() throws {
        if repair, dryRun { throw ValidationError("--repair and --dry-run exclude each other") }
    }

    func run() async throws {
        let command = try MatchCommand(
            settings: try await settings.load(), entityTypes: type, scope: recent ? .recent : .full,
            repair: repair ? .yes : dryRun ? .dry : .no,
            mostRepairs: maxRepairs)
        if try await command.run() > 0 {
            throw ArgumentParser.ExitCode(ReactionAgent.ExitCode.failure.rawValue)
        }
    }
}
