public import ReactionModel

/// Makes every key: the database's prefix, then the template of the type.
public struct KeySpace: Sendable {
    private let prefix: [UInt8]

    /// What follows the entity's key in the names of its keys; all of them live and die together.
    public static let entitySuffixes: [StaticString] = [
        countsSuffix, totalSuffix, viralSuffix, reactionsSuffix, sampleSuffix,
    ]
    public static let countsSuffix: StaticString = ":reaction_counts"
    /// Of viral entities only, for readers that know no other key.
    public static let totalSuffix: StaticString = ":total_reactions"
    public static let viralSuffix: StaticString = ":viral"
    /// Everybody who has reacted to a regular entity (`ReactionList`).
    public static let reactionsSuffix: StaticString = ":reactions"
    /// The newest who have reacted to a viral entity (`ReactionList`).
    public static let sampleSuffix: StaticString = ":sample"

    public init(prefix: [UInt8]) {
        self.prefix = prefix
    }

    /// The list of compared reads of a type.
    public func comparedReads(of entityType: String) -> [UInt8] {
        prefix + "reactions:compared:".utf8 + entityType.utf8
    }

    /// What the keys of all watermarks begin with.
    var appliedPrefix: [UInt8] { prefix + "reactions:applied:".utf8 }

    /// The last write to the entities of a shard.
    public func applied(of entityType: String, shard: Int32) -> [UInt8] {
        var key = appliedPrefix + entityType.utf8
        key.append(UInt8(ascii: ":"))
        key.appendDecimal(Int64(shard))
        return key
    }

    /// The entities of a type that were missed, scored by how often.
    public func wanted(of entityType: String) -> [UInt8] {
        prefix + "reactions:wanted:".utf8 + entityType.utf8
    }

    public func key(_ template: KeyTemplate, id: Int64, shardCount: Int32, suffix: StaticString = "") -> [UInt8] {
        var key = prefix
        template.append(id: id, shardCount: shardCount, to: &key)
        suffix.withUTF8Buffer { key.append(contentsOf: $0) }
        return key
    }
}
