import ArgumentParser
import PostgresSource
import ReactionAgent

struct DoctorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Checks PostgreSQL, Redis, ClickHouse and the clocks.",
        discussion: "Ends with 1 if a check fails.")

    @OptionGroup var settings: SettingsOptions

    @Flag(help: "Print JSON.")
    var json = false

    func run() async throws {
        let settings = try await settings.load()
        let postgres = await Doctor.postgres(PostgresSource(settings: settings.postgres))
        let redis = await Doctor.redis(settings.redis)
        let clickHouse = await Doctor.clickHouse(settings.clickHouse)
        let clocks = Doctor.clocks([
            ("PostgreSQL", postgres.skew), ("Redis", redis.skew), ("ClickHouse", clickHouse.skew),
        ])
        let checks = postgres.checks + redis.checks + clickHouse.checks + [clocks]
        print(json ? try prettyJSON(checks) : checks.map(\.line).joined(separator: "\n"))
        if checks.contains(where: { !$0.ok }) { throw ArgumentParser.ExitCode(ReactionAgent.ExitCode.failure.rawValue) }
    }
}
