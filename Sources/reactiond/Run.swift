import ArgumentParser
import Logging
import ReactionAgent

struct Run: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Mirrors until SIGTERM or SIGINT.",
        discussion: """
            Of several agents on one database one leads and the others wait. On SIGTERM the batches under way are finished, \
            at most for agent.shutdown_timeout; whatever is left is taken up at the next start.
            """)

    @OptionGroup var settings: SettingsOptions

    func run() async throws {
        let settings = try await settings.load()
        LoggingSystem.bootstrap(StreamLogHandler.standardError)
        var logger = Logger(label: "reactiond")
        logger.logLevel = settings.logLevel
        try await Agent.run(settings, sink: ClickHouseSink(settings.clickHouse), logger: logger)
    }
}
