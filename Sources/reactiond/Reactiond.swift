import ArgumentParser

@main
struct Reactiond: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "reactiond")
}
