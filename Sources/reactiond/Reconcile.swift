import ArgumentParser
import ReactionAgent

struct Reconcile: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Looks through what is in Redis, compares counts with ClickHouse, and repairs what is wrong.",
        discussion: """
            What it finds is stored in reactions.reconcile_run, reconcile_class, reconcile_shard and reconcile_finding. A \
            repair drops keys, and the agent builds them anew. Ends with 1 if something is left. Neither Redis nor writers are held up.
            """)

    @Option(help: "An entity type; may be given several times. Without it: every one.")
    var type: [String] = []

    @Flag(
        help:
            "Compare all lists, and the sums in ClickHouse with its events, too: reads all events of what is in Redis.")
    var deep = false

    @Flag(help: "Show what would be repaired, and change nothing.")
    var dryRun = false

    @Option(help: "Repairs of this run; the rest is reported. Without it: reconcile.max_repairs.")
    var maxRepairs: Int64?

    @OptionGroup var settings: SettingsOptions

    func run() async throws {
        let command = try ReconcileCommand(
            settings: try await settings.load(), entityTypes: type, isDry: dryRun, isDeep: deep, mostRepairs: maxRepairs
        )
        if try await command.run() > 0 {
            throw ArgumentParser.ExitCode(ReactionAgent.ExitCode.failure.rawValue)
        }
    }
}
