public import ReactionModel

/// Makes every key: the database's prefix, then the template of the type.
///
/// In a cluster all keys of a shard's entities have one hash tag, the shard's number in braces, and with it one slot: a script may
/// change them together. Templates have no braces, so this tag is the only one. User maps are alone in their commands and go anywhere.
public struct KeySpace: Equatable, Sendable {
    private let prefix: [UInt8]
    private let isCluster: Bool

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

    /// Whether keys in a cluster may begin with the prefix: with a brace it would be the hash tag of all of them, and one server have them.
    public static func suitsCluster(prefix: [UInt8]) -> Bool {
        !prefix.contains(UInt8(ascii: "{"))
    }

    public static let unsuitablePrefix = "In a Redis Cluster reactions.key_prefix may not have a brace."

    /// - Parameter isCluster: only with a prefix that `suitsCluster`.
    public init(prefix: [UInt8], isCluster: Bool = false) {
        self.prefix = prefix
        self.isCluster = isCluster
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
        key.append(shard: shard, isTag: isCluster)
        return key
    }

    /// The entities of a type that were missed, scored by how often.
    public func wanted(of entityType: String) -> [UInt8] {
        prefix + "reactions:wanted:".utf8 + entityType.utf8
    }

    /// A user's map.
    public func key(_ template: KeyTemplate, id: Int64, shardCount: Int32) -> [UInt8] {
        var key = prefix
        template.append(id: id, shardCount: shardCount, to: &key)
        return key
    }

    /// One of an entity's keys.
    public func key(_ template: KeyTemplate, id: Int64, shardCount: Int32, suffix: StaticString) -> [UInt8] {
        var key = prefix
        if isCluster {
            template.append(taggedID: id, shardCount: shardCount, to: &key)
        } else {
            template.append(id: id, shardCount: shardCount, to: &key)
        }
        suffix.withUTF8Buffer { key.append(contentsOf: $0) }
        return key
    }
}
