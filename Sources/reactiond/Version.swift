import ArgumentParser

struct Version: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Prints the version of this program.")

    func run() {
        print("reactiond \(Reactiond.version)")
    }
}
