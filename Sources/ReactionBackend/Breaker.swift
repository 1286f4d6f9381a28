/// Keeps a backend from hammering a server that is down. Times are passed in, in milliseconds of one clock.
struct Breaker {
    static let failuresToOpen = 3
    static let firstPause: Int64 = 100
    static let longestPause: Int64 = 5_000

    enum State: Equatable {
        /// Every attempt is allowed. Can transition to: open.
        case closed(failures: Int)
        /// No attempt is allowed before the time. Can transition to: halfOpen.
        case open(until: Int64, pause: Int64)
        /// The next attempt decides; one that ends without a verdict, because it was cancelled, leaves it to the one after.
        /// Can transition to: closed, open.
        case halfOpen(pause: Int64)
    }

    private(set) var state = State.closed(failures: 0)

    /// Whether the server may be asked now.
    mutating func allowsAttempt(at now: Int64) -> Bool {
        guard case .open(let until, let pause) = state else { return true }
        guard now >= until else { return false }
        state = .halfOpen(pause: pause)
        return true
    }

    mutating func succeeded() {
        state = .closed(failures: 0)
    }

    /// Returns whether this failure opened it.
    mutating func failed(at now: Int64) -> Bool {
        switch state {
        case .closed(let failures) where failures + 1 < Self.failuresToOpen:
            state = .closed(failures: failures + 1)
            return false
        case .closed:
            state = .open(until: now &+ Self.firstPause, pause: Self.firstPause)
        case .halfOpen(let pause):
            let longer = min(pause * 2, Self.longestPause)
            state = .open(until: now &+ longer, pause: longer)
        case .open:
            return false
        }
        return true
    }
}
