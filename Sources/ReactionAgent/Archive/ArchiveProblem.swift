/// Why a table cannot be archived or restored, in the operator's words.
public struct ArchiveProblem: Error, Sendable, CustomStringConvertible {
    public var description: String

    init(_ description: String) {
        self.description = description
    }
}
