public import ReactionModel

/// A rollback from phase `stop_writes`, as the agent that carries it out decides its steps.
///
/// What the table has missed is written in rounds, each shorter than the one before: first what ClickHouse has up to a finished batch,
/// then what came into the outbox meanwhile, again and again, and the last events while writers wait. A round is begun under a lock
/// that keeps the outbox as it is, and everything behind its batch is in it. A step that fails ends the round: the next one is begun at
/// a newer batch, from what is written down as done.
public struct RollBack: Sendable {
    public enum Action: Equatable, Sendable {
        /// Lock the outbox, and choose a finished batch.
        case begin
        /// Write the state in ClickHouse of what changed behind one batch, up to the other.
        case writeBatches(after: BatchNumber, through: BatchNumber)
        /// Write the events in the outbox that are not written yet, unless they are more than `RollBack.mostEvents`.
        case writeEvents
        /// Have writers wait, write what is left, and change the phase.
        case flip
        /// Give the lock back, and begin after this time.
        case pause(Duration)
        case stop
    }

    public enum State: Equatable, Sendable {
        /// Can transition to: writingBatches, writingEvents, beginning (after a pause).
        case beginning
        /// - Parameter isFresh: the batch was chosen under the lock, and not by an agent before. Can transition to: writingEvents, beginning.
        case writingBatches(isFresh: Bool)
        /// Can transition to: flipping, beginning.
        case writingEvents(last: Int64?, rounds: Int)
        /// Can transition to: over, beginning.
        case flipping
        case over
    }

    /// Events that are rather written from ClickHouse, as states.
    public static let mostEvents: Int64 = 50_000
    /// So few are left to be written while writers wait, at about 10,000 a second.
    static let fewEvents: Int64 = 200
    /// And no more than these, where the rounds get no shorter.
    public static let mostAtTheEnd: Int64 = 5_000
    /// Rounds of events that get no shorter, before the operator is told.
    static let patience = 20
    /// For the mirror to get on.
    static let pauseForMirror: Duration = .milliseconds(500)

    public private(set) var state = State.beginning
    private var backoff: Backoff
    /// What keeps it up, in the operator's words.
    public private(set) var obstacle: String?

    public init(longestBackoff: Duration, jitter: @escaping @Sendable () -> Double = { .random(in: 0..<1) }) {
        backoff = Backoff(limit: longestBackoff, jitter: jitter)
    }

    /// - Parameters:
    ///   - done: the table has everything up to this batch.
    ///   - chosen: the batch of this round; nil if the mirror has none yet.
    public mutating func began(done: BatchNumber, chosen: BatchNumber?, isFresh: Bool) -> Action {
        guard let chosen else { return wait("the mirror has not finished a batch yet") }
        guard chosen > done else { return beginEvents() }
        state = .writingBatches(isFresh: isFresh)
        return .writeBatches(after: done, through: chosen)
    }

    public mutating func batchesWritten() -> Action {
        backoff.succeeded()
        obstacle = nil
        guard state == .writingBatches(isFresh: true) else {
            state = .beginning
            return .begin
        }
        return beginEvents()
    }

    /// - Parameter events: those that were written, or, above `mostEvents`, that were not.
    public mutating func eventsWritten(_ events: Int64) -> Action {
        guard case .writingEvents(let last, let rounds) = state else { return wait("out of step") }
        guard events <= Self.mostEvents else {
            return wait("\(events) events are in the outbox; ClickHouse has to take them first")
        }
        let shrinks = last.map { events < $0 } ?? true
        if events <= Self.fewEvents || !shrinks && events <= Self.mostAtTheEnd {
            state = .flipping
            return .flip
        }
        obstacle =
            rounds >= Self.patience ? "events come as fast as they are written: \(events) in the last round" : nil
        state = .writingEvents(last: events, rounds: rounds + 1)
        return .writeEvents
    }

    public mutating func flipped() -> Action {
        state = .over
        obstacle = nil
        return .stop
    }

    /// The request was withdrawn, taken up by another agent, or cannot be carried out.
    public mutating func ended() -> Action {
        state = .over
        return .stop
    }

    /// - Parameter slowly: only an operator can help.
    public mutating func failed(_ problem: String, slowly: Bool) -> Action {
        state = .beginning
        obstacle = problem
        return .pause(backoff.failed(slowly: slowly))
    }

    private mutating func beginEvents() -> Action {
        state = .writingEvents(last: nil, rounds: 0)
        return .writeEvents
    }

    private mutating func wait(_ reason: String) -> Action {
        state = .beginning
        obstacle = reason
        return .pause(Self.pauseForMirror)
    }
}
