public import RedisStore

/// What a shard of a type has in Redis.
public struct ShardUse: Equatable, Sendable {
    public struct Key: Hashable, Sendable {
        public var entityType: String
        public var shard: Int32

        public init(entityType: String, shard: Int32) {
            self.entityType = entityType
            self.shard = shard
        }
    }

    /// Entities that are right, by tier.
    public private(set) var regularEntities: Int64 = 0
    public private(set) var viralEntities: Int64 = 0
    /// Of all keys of entities, be they right or not; nil if Redis does not tell of one of them.
    public private(set) var entityBytes: Int64? = 0
    public private(set) var userMaps: Int64 = 0
    public private(set) var userMapBytes: Int64? = 0

    public init() {}

    public mutating func addEntity(_ tier: EntityTier) {
        switch tier {
        case .regular: regularEntities += 1
        case .viral: viralEntities += 1
        }
    }

    /// - Parameter bytes: nil if Redis does not tell.
    public mutating func addEntityKey(bytes: Int64?) {
        entityBytes = Self.sum(entityBytes, bytes)
    }

    public mutating func addUserMap(bytes: Int64?) {
        userMaps += 1
        userMapBytes = Self.sum(userMapBytes, bytes)
    }

    private static func sum(_ left: Int64?, _ right: Int64?) -> Int64? {
        guard let left, let right else { return nil }
        return left + right
    }
}
