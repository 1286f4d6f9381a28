import ArgumentParser
import Foundation
import PostgresSource
import ReactionAgent

struct Status: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows how far the mirror is.",
        discussion: "Asks PostgreSQL only, and works whether or not an agent is running.")

    @OptionGroup var settings: SettingsOptions

    @Flag(help: "Print JSON.")
    var json = false

    func run() async throws {
        let source = PostgresSource(settings: try await settings.load().postgres)
        try await source.open()
        try IncompatibleExtension.check(try await source.extensionVersion())
        let report = try await source.report()
        print(json ? try prettyJSON(report) : report.table)
    }
}

func prettyJSON(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    return String(decoding: try encoder.encode(value), as: UTF8.self)
}
