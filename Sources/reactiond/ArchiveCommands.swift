import ArgumentParser
import ReactionAgent

struct Archive: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Writes the frozen table of a type into files, verifies them, and takes the type to phase archived.",
        discussion: """
            The type is in phase stop_writes. The files are gzip of CSV, with a manifest; they are read back and compared with the \
            table, and the table once more with ClickHouse, before it is renamed or dropped. What interrupts it before the end \
            leaves everything as it was; calling it again goes on or starts over. A full disk is such an interruption.
            """)

    enum Format: String, ExpressibleByArgument, CaseIterable {
        case csv
    }

    enum Disposition: String, ExpressibleByArgument, CaseIterable {
        case rename
        case drop
        case keep

        var command: ArchiveCommand.Disposition {
            switch self {
            case .rename: .rename
            case .drop: .drop
            case .keep: .keep
            }
        }
    }

    @Argument(help: "The entity type.")
    var entityType: String

    @Option(
        help: ArgumentHelp("Where the files go: a directory that is empty or not there yet.", valueName: "directory"))
    var to: String

    @Option(help: "What becomes of the table: rename, drop or keep.")
    var then: Disposition = .rename

    @Option(help: "Format of the files.")
    var format: Format = .csv

    @Option(help: "Rows of one file.")
    var maxFileRows: Int64 = 5_000_000

    @Flag(help: "Read the archive that is in the directory back, and change nothing.")
    var verifyOnly = false

    @OptionGroup var settings: SettingsOptions

    func validate() throws {
        guard maxFileRows > 0 else { throw ValidationError("--max-file-rows is not above 0") }
    }

    func run() async throws {
        let settings = try await settings.load()
        if verifyOnly {
            try await VerifyCommand(settings: settings, entityType: entityType, directory: to).run()
        } else {
            try await ArchiveCommand(
                settings: settings, version: Reactiond.version, entityType: entityType, directory: to,
                disposition: then.command,
                maxFileRows: maxFileRows
            ).run()
        }
    }
}

struct Restore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Brings the table of an archived type back, and takes the type to phase stop_writes.",
        discussion: """
            A table that was renamed gets its name back; one that was dropped is made anew, loaded from the files and checked. Rows \
            of users who were forgotten since are left out; rows that a foreign key does not allow any more are left out and kept \
            in a file. The table is then as it was when its writes were stopped: CALL reactions.rollback writes into it what has \
            happened since.
            """)

    @Argument(help: "The entity type.")
    var entityType: String

    @Option(help: ArgumentHelp("The archive.", valueName: "directory"))
    var from: String

    @Option(help: ArgumentHelp("Another name for the table, in the same schema.", valueName: "name"))
    var table: String?

    @Flag(help: "Then call reactions.rollback: the table gets what has happened since, and is the truth again.")
    var rollback = false

    @OptionGroup var settings: SettingsOptions

    func run() async throws {
        try await RestoreCommand(
            settings: try await settings.load(), entityType: entityType, directory: from, tableName: table,
            rollsBack: rollback, notice: standardError
        ).run()
    }
}
