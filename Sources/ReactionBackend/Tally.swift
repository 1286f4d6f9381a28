import CReactionsBoundary

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
