public import ReactionModel

/// One entity in a call of `entity_write`.
public struct EntityWrite {
    /// What Redis is to hold of it from now on.
    public struct Content {
        public var tier: EntityTier
        public var total: Int64
        /// A packed `ReactionList`.
        public var list: [UInt8]
        /// Fields and values of the counts, by turns, the marker among them.
        public var fields: [[UInt8]]

        public init(tier: EntityTier, total: Int64, list: [UInt8], fields: [[UInt8]]) {
            self.tier = tier
            self.total = total
            self.list = list
            self.fields = fields
        }
    }

    /// In the order of `KeySpace.entitySuffixes`.
    public var keys: [[UInt8]]
    /// The marker that was read; empty for none.
    public var marker: [UInt8]
    /// Nil: the entity is dropped.
    public var content: Content?

    public init(keys: [[UInt8]], marker: [UInt8], content: Content?) {
        self.keys = keys
        self.marker = marker
        self.content = content
    }

    /// Bytes of the call that are its own, about.
    public var size: Int {
        let fields = content?.fields.reduce(0) { $0 &+ $1.count &+ 8 } ?? 0
        return keys.reduce(0) { $0 &+ $1.count &+ 8 } &+ marker.count &+ (content?.list.count ?? 0) &+ fields &+ 40
    }
}

extension CommandBuffer {
    /// - Parameters:
    ///   - writes: of one shard.
    ///   - predecessor: what the watermark is now; empty for none.
    ///   - ttl: seconds.
    public mutating func appendEntityWrite(
        _ writes: some Collection<EntityWrite>, digest: [UInt8], watermark: [UInt8], predecessor: [UInt8],
        successor: [UInt8], ttl: Int64
    ) {
        let arguments = writes.reduce(3) { $0 &+ 5 &+ ($1.content?.fields.count ?? 0) }
        beginScript(digest, keys: writes.reduce(1) { $0 &+ $1.keys.count }, arguments: arguments)
        append(key: watermark)
        for write in writes {
            for key in write.keys { append(key: key) }
        }
        append(predecessor)
        append(successor)
        append(ttl)
        for write in writes {
            append(write.marker)
            append(CollectionOfOne(write.content?.tier.rawValue ?? UInt8(ascii: "-")))
            append(write.content?.total ?? 0)
            append(write.content?.list ?? [])
            append(Int64(write.content?.fields.count ?? 0))
            for text in write.content?.fields ?? [] { append(text) }
        }
    }
}

extension KeySpace {
    /// In the order of `entitySuffixes`.
    public func entityKeys(of type: EntityType, id: Int64) -> [[UInt8]] {
        Self.entitySuffixes.map { key(type.entityKey, id: id, shardCount: type.shardCount, suffix: $0) }
    }
}
