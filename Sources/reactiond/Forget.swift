import ArgumentParser
import ReactionAgent

struct Forget: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Forgets a user: un-reacts everything and erases it, and waits until nothing is left.",
        discussion: """
            Calls reactions.forget_user. The running agent does the rest, which takes as long as finished batches are kept \
            (mirror.batch_retention), and goes on with it when this command is interrupted. Write-ahead log, backups, dumps \
            and archive files keep what they have.
            """)

    @Argument(help: "The id of the user.")
    var user: Int64

    @OptionGroup var settings: SettingsOptions

    func run() async throws {
        try await ForgetCommand(settings: try await settings.load(), user: user).run()
    }
}
