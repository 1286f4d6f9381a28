import ArgumentParser
import Logging
import ReactionAgent

struct Backfill: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "Brings the rows that attached tables had before their capture into ClickHouse, and shows how far it is.",
        discussion: """
            Beside a running agent the work is done once, by one of the two; that one is needed too, since the mirror has to \
            be level before a backfill is sealed. Ends when everything is sealed; what is left when it is interrupted is gone \
            on with by the agent or at the next call.
            """)

    @Argument(help: "The entity type. Without it: every attached one.")
    var entityType: String?

    @OptionGroup var settings: SettingsOptions

    func run() async throws {
        let settings = try await settings.load()
        LoggingSystem.bootstrap(StreamLogHandler.standardError)
        var logger = Logger(label: "reactiond")
        logger.logLevel = max(settings.logLevel, .warning)
        try await BackfillCommand(settings: settings, entityType: entityType, logger: logger).run()
    }
}
