/// When to look into the outbox, and when to sleep until a writer rings.
///
/// NOTIFY in every transaction costs most of the write throughput, so writers notify only while the flag "asleep" is set, which only
/// the agent sets and clears. A writer may have read the flag just before it was set; it then has a transaction id below the horizon
/// (an id the agent assigns itself after setting the flag). So the agent looks on until a look, whose one snapshot shows no running
/// transaction below the horizon, finds nothing.
public struct Bell: Sendable {
    enum State: Equatable, Sendable {
        /// The flag is clear; looks follow at `interval`, which doubles while nothing comes. Can transition to: lyingDown.
        case awake(interval: Duration, idleSince: Duration)
        /// The flag is being set. Can transition to: dozing.
        case lyingDown
        /// The flag is set, writers below the horizon may not have seen it. Can transition to: wakingUp, asleep.
        case dozing(horizon: UInt64)
        /// Every writer sees the flag; waiting for a notification or the heartbeat. Can transition to: wakingUp.
        case asleep
        /// The flag is being cleared. Can transition to: awake.
        case wakingUp
    }

    public enum Action: Equatable, Sendable {
        case look(after: Duration)
        /// Set the flag and report the horizon.
        case lieDown
        /// Clear the flag.
        case wakeUp
        /// Wait for a notification, at most a heartbeat.
        case awaitBell
    }

    public static let shortestInterval: Duration = .milliseconds(10)
    public static let longestInterval: Duration = .milliseconds(100)

    private(set) var state: State
    let idleBeforeSleep: Duration

    public init(idleBeforeSleep: Duration, now: Duration) {
        self.idleBeforeSleep = idleBeforeSleep
        self.state = .awake(interval: Self.shortestInterval, idleSince: now)
    }

    /// A look came back.
    /// - Parameters:
    ///   - oldestRunning: the xmin of the look's snapshot.
    ///   - isBusy: whether batches are still under way, so that the agent's connection is needed.
    public mutating func looked(found: Bool, oldestRunning: UInt64, isBusy: Bool, now: Duration) -> Action {
        switch state {
        case .awake(let interval, let idleSince):
            if found {
                state = .awake(interval: Self.shortestInterval, idleSince: now)
                return .look(after: Self.shortestInterval)
            }
            if now - idleSince >= idleBeforeSleep, !isBusy {
                state = .lyingDown
                return .lieDown
            }
            state = .awake(interval: min(interval * 2, Self.longestInterval), idleSince: idleSince)
            return .look(after: interval)
        case .dozing(let horizon):
            if found { return wakeUp() }
            guard oldestRunning >= horizon else { return .look(after: Self.longestInterval) }
            state = .asleep
            return .awaitBell
        case .asleep:
            return found ? wakeUp() : .awaitBell
        case .lyingDown, .wakingUp:
            return .look(after: Self.longestInterval)
        }
    }

    /// The flag is set; `horizon` was assigned afterwards.
    public mutating func lainDown(horizon: UInt64) -> Action {
        state = .dozing(horizon: horizon)
        return .look(after: .zero)
    }

    /// A notification came, or the heartbeat: either is only a hint.
    public mutating func heard() -> Action {
        .look(after: .zero)
    }

    /// The flag is clear.
    public mutating func wokenUp(now: Duration) -> Action {
        state = .awake(interval: Self.shortestInterval, idleSince: now)
        return .look(after: .zero)
    }

    private mutating func wakeUp() -> Action {
        state = .wakingUp
        return .wakeUp
    }
}
