import CReactionsBoundary
import RedisStore

/// What a backend has counted since it last told; and its connections to Redis, for as long as it lives.
final class Tally {
    var counters = rx_counters()
    private var connections: UInt64 = 0

    /// A number that no connection had before. C keeps things under it.
    func nextConnection() -> UInt64 {
        connections &+= 1
        return connections
    }

    func take() -> rx_counters {
        defer { counters = rx_counters() }
        return counters
    }
}

extension rx_counters {
    /// - Parameter tier: in which Redis has the entity; nil if it does not have it.
    mutating func countEntity(_ tier: EntityTier?, isHit: Bool) {
        switch (tier, isHit) {
        case (.regular, true): regular_entity_hits &+= 1
        case (.regular, false): regular_entity_misses &+= 1
        case (.viral, true): viral_entity_hits &+= 1
        case (.viral, false): viral_entity_misses &+= 1
        case (nil, _): absent_entity_misses &+= 1
        }
    }
}
