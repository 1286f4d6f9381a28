public import ReactionModel

/// Makes every key: the database's prefix, then the template of the type.
public struct KeySpace {
    private let prefix: [UInt8]

    /// What follows the entity's key in the names of its keys; all of them live and die together.
    public static let entitySuffixes: [StaticString] = [
        ":reaction_counts", ":total_reactions", ":viral", ":reactions", ":sample",
    ]

    public init(prefix: [UInt8]) {
        self.prefix = prefix
    }

    /// The list of compared reads of a type.
    public func comparedReads(of entityType: String) -> [UInt8] {
        prefix + "reactions:compared:".utf8 + entityType.utf8
    }

    public func key(_ template: KeyTemplate, id: Int64, shardCount: Int32, suffix: StaticString = "") -> [UInt8] {
        var key = prefix
        template.append(id: id, shardCount: shardCount, to: &key)
        suffix.withUTF8Buffer { key.append(contentsOf: $0) }
        return key
    }
}
