import ArgumentParser
import Foundation
import ReactionAgent

struct ReadinessCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "readiness",
        abstract: "Shows what an entity type lacks for its next phase.",
        discussion: "Ends with 1 if a condition is not met. The same as SELECT * FROM reactions.readiness(TYPE).")

    @Argument(help: "The entity type. Without it: every one.")
    var entityType: String?

    @OptionGroup var settings: SettingsOptions

    @Flag(help: "Print JSON.")
    var json = false

    func run() async throws {
        let command = try await PhaseCommand.open(settings, "readiness")
        let types = try await command.readiness(entityType)
        print(json ? try prettyJSON(types) : types.map(\.table).joined(separator: "\n\n"))
        if !types.allSatisfy(\.isReady) {
            throw ArgumentParser.ExitCode(ReactionAgent.ExitCode.failure.rawValue)
        }
    }
}

struct Advance: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Takes an entity type to its next phase, if it is ready for it.",
        discussion: """
            The same as CALL reactions.advance(TYPE), which writes who did it and what the conditions were into \
            reactions.phase_log. Ends with 1 if the type is not ready. From phase stop_writes on, reactiond archive goes further.
            """)

    @Argument(help: "The entity type.")
    var entityType: String

    @OptionGroup var settings: SettingsOptions

    @Flag(help: "Without the conditions that are not met. It is logged with what was missing.")
    var force = false

    @Option(
        help: ArgumentHelp("Try again for so long until the type is ready, as 90s, 30min or 2h.", valueName: "duration")
    )
    var wait: WaitingTime = .init(duration: .zero)

    func run() async throws {
        let command = try await PhaseCommand.open(settings, "advance")
        for type in try await command.readiness(entityType) { print(type.table) }
        try await command.advance(entityType, force: force, wait: wait.duration)
        print("advanced")
    }
}

struct Rollback: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Takes an entity type back to the phase before.",
        discussion: """
            The same as CALL reactions.rollback(TYPE). From phase stop_writes the agent that runs first writes into the table what \
            it has missed, and this command shows how far it is. When the command is ended the rollback is withdrawn.
            """)

    @Argument(help: "The entity type.")
    var entityType: String

    @OptionGroup var settings: SettingsOptions

    func run() async throws {
        try await PhaseCommand.open(settings, "rollback").rollBack(entityType)
        print("rolled back")
    }
}

struct WaitingTime: ExpressibleByArgument {
    var duration: Duration

    init(duration: Duration) {
        self.duration = duration
    }

    init?(argument: String) {
        guard let duration = PhaseCommand.duration(argument) else { return nil }
        self.duration = duration
    }
}

extension PhaseCommand {
    /// Notices go to standard error as they come.
    fileprivate static func open(_ options: SettingsOptions, _ name: String) async throws -> PhaseCommand {
        let command = PhaseCommand(settings: try await options.load(), name: name, notice: standardError)
        try await command.open()
        return command
    }
}

@Sendable func standardError(_ text: String) {
    FileHandle.standardError.write(Data(text.utf8))
}
