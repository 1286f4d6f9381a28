import CReactionsBoundary

/// What a backend has counted since it last told.
final class Tally {
    var counters = rx_counters()

    func take() -> rx_counters {
        defer { counters = rx_counters() }
        return counters
    }
}
