/// A way on which batches go one after the other: into Redis, or into ClickHouse.
struct Lane: Sendable {
    enum State: Equatable, Sendable {
        /// Nothing under way. Can transition to: busy.
        case idle
        /// A batch is under way. Can transition to: idle, backingOff.
        case busy
        /// The server failed; the same batch again at `until`. Can transition to: busy.
        case backingOff(until: Duration)
    }

    private(set) var state = State.idle
    private(set) var backoff: Backoff
    /// Since when the server has not taken anything; nil when the last attempt succeeded.
    private(set) var failingSince: Duration?

    init(backoff: Backoff) {
        self.backoff = backoff
    }

    func isReady(now: Duration) -> Bool {
        switch state {
        case .idle: true
        case .busy: false
        case .backingOff(let until): now >= until
        }
    }

    var nextAttempt: Duration? {
        guard case .backingOff(let until) = state else { return nil }
        return until
    }

    mutating func started() {
        state = .busy
    }

    mutating func succeeded() {
        state = .idle
        failingSince = nil
        backoff.succeeded()
    }

    mutating func failed(now: Duration, slowly: Bool = false) {
        failingSince = failingSince ?? now
        state = .backingOff(until: now + backoff.failed(slowly: slowly))
    }

    /// The attempt failed for a reason that is not the lane's own server.
    mutating func hindered(now: Duration) {
        failingSince = nil
        state = .backingOff(until: now + backoff.failed(slowly: false))
    }

    /// What had to be done was done in another way although the server still fails: the wait for it begins anew.
    mutating func circumvented(now: Duration) {
        failingSince = now
        state = .idle
    }
}
