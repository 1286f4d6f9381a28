import ArgumentParser
import ReactionAgent

struct InitClickHouse: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init-clickhouse",
        abstract: "Makes the mirror's database and tables in ClickHouse, those that do not exist yet.")

    @OptionGroup var settings: SettingsOptions

    @Option(
        help: ArgumentHelp(
            "Spread the tables over this cluster, by its name in the servers' remote_servers: replicated tables on its servers, and distributed ones over them.",
            valueName: "name"))
    var cluster: String?

    @Flag(help: "Print the commands for servers of the newest version instead, to be run by hand.")
    var printOnly = false

    func run() async throws {
        let settings = try await settings.load().clickHouse
        if printOnly {
            print(try ClickHouseSchema.script(database: settings.database, cluster: cluster), terminator: "")
        } else {
            let report = try cluster.map { try ClickHouseSchema.create(settings, cluster: $0) }
            for line in try report ?? ClickHouseSchema.create(settings) { print(line) }
        }
    }
}
