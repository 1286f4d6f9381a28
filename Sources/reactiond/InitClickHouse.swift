import ArgumentParser
import ReactionAgent

struct InitClickHouse: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init-clickhouse",
        abstract: "Makes the mirror's database and tables in ClickHouse, those that do not exist yet.")

    @OptionGroup var settings: SettingsOptions

    @Flag(help: "Print the commands for a server of the newest version instead, to be run by hand.")
    var printOnly = false

    func run() async throws {
        let settings = try await settings.load().clickHouse
        if printOnly {
            print(ClickHouseSchema.script(database: settings.database), terminator: "")
        } else {
            for line in try ClickHouseSchema.create(settings) { print(line) }
        }
    }
}
