/// The extension in the database is not one that this agent knows.
public struct IncompatibleExtension: Error, CustomStringConvertible {
    /// The newest series, as (major, minor), whose tables and functions this agent knows.
    static let newestKnown = (major: 0, minor: 1)

    /// Nil if the extension is not installed.
    public var version: String?

    public var description: String {
        guard let version else { return "the extension pg_reactions is not installed in this database" }
        let known = "\(Self.newestKnown.major).\(Self.newestKnown.minor)"
        return
            "the extension pg_reactions \(version) is newer than this agent, which knows up to \(known): upgrade the agent first"
    }

    public static func check(_ version: String?) throws(IncompatibleExtension) {
        let parts = (version ?? "").split(separator: ".").compactMap { Int($0) }
        guard parts.count >= 2, (parts[0], parts[1]) <= newestKnown else {
            throw IncompatibleExtension(version: version)
        }
    }
}
