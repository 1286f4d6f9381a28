import ArgumentParser
import TestSupport

@main
struct Bench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reactions-bench",
        abstract: "Measures pg_reactions beside what one would use without it, on private servers.",
        discussion: """
            Each benchmark checks the answers that it times, prints a table of contenders and ends with lines \
            "figure <name> <value>".
            """,
        subcommands: [Reads.self, Writes.self, EntityCounts.self, Mirror.self, Backfill.self, Migration.self])
}

/// What every benchmark takes.
struct BenchOptions: ParsableArguments {
    @Flag(help: "Little data and few calls: whether the benchmark works, not how fast anything is.")
    var short = false

    @Option(help: ArgumentHelp("Write the growth charts into this directory.", valueName: "directory"))
    var charts: String?
}
