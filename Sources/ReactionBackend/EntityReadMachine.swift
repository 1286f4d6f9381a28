/// Decides the course of a read of entities; a shell runs the actions and reports what came of them.
///
/// What Redis does not have the agent is asked for, by an entry in the type's set of wanted entities. The first session that misses an entity
/// asks the truth at once. Those that come while it is wanted look again for a while, since the agent may be about to install it; then
/// they ask the truth, too. Nothing is filled here: entities are written by the agent alone.
struct EntityReadMachine {
    struct Question {
        /// Whether there is anything to read in Redis.
        var readsRedis = true
        /// Whether the truth is asked for what Redis does not have; else it stays unknown.
        var asksTruth = true
        /// Milliseconds to wait for the agent to install what somebody else has missed.
        var fillWait: Int64
    }

    /// What Redis said of what was asked.
    enum Finding: Equatable {
        case everything
        case gaps
        /// What Redis keeps of the entity ends; it need not be wanted.
        case rest
    }

    enum Action: Equatable {
        case openRedis
        case read
        /// Note what was missed as wanted.
        case want
        case pause(milliseconds: Int64)
        case wantTruth
        case askClickHouse
        case finish
        case fail(Failure)
    }

    enum State: Equatable {
        /// Can transition to: opening, awaitingTruth.
        case idle
        /// Can transition to: reading, finished.
        case opening
        /// Can transition to: reading (for more of the same), wanting, awaitingTruth, finished.
        case reading
        /// Can transition to: pausing, awaitingTruth.
        case wanting
        /// Can transition to: opening.
        case pausing
        /// Can transition to: querying, finished.
        case awaitingTruth
        /// Can transition to: querying (for more of the same), finished.
        case querying
        case finished
    }

    static let shortestPause: Int64 = 2
    static let longestPause: Int64 = 16

    let question: Question
    private(set) var state = State.idle
    private var pause = Self.shortestPause
    private var waitEnds: Int64?

    /// Whether it was waited for an install in vain.
    private(set) var hasWaitedInVain = false

    init(_ question: Question) {
        self.question = question
    }

    mutating func started() -> Action {
        question.readsRedis ? enter(.opening, .openRedis) : enter(.awaitingTruth, .wantTruth)
    }

    mutating func redisOpened() -> Action {
        enter(.reading, .read)
    }

    /// - Parameter now: milliseconds.
    mutating func redisRead(_ finding: Finding, at now: Int64) -> Action {
        switch finding {
        case .everything: return enter(.finished, .finish)
        case .gaps where !question.asksTruth: return enter(.finished, .finish)
        case .gaps: return waitEnds == nil ? enter(.wanting, .want) : waitOrGiveUp(now)
        case .rest: return enter(.awaitingTruth, .wantTruth)
        }
    }

    /// More of the same is to be read.
    mutating func redisReadInPart() -> Action {
        enter(.reading, .read)
    }

    /// - Parameter isFirst: whether somebody has to ask the truth for one of them, since nobody has missed it before.
    mutating func wanted(isFirst: Bool, at now: Int64) -> Action {
        isFirst ? enter(.awaitingTruth, .wantTruth) : waitOrGiveUp(now)
    }

    /// The connection may be gone by now.
    mutating func pauseEnded() -> Action {
        enter(.opening, .openRedis)
    }

    /// - Parameter isAnswer: whether it is the answer, and not only who is to be asked.
    mutating func truthGiven(isAnswer: Bool) -> Action {
        isAnswer ? enter(.finished, .finish) : enter(.querying, .askClickHouse)
    }

    mutating func clickHouseAnswered(hasMore: Bool) -> Action {
        hasMore ? enter(.querying, .askClickHouse) : enter(.finished, .finish)
    }

    /// That what was missed could not be noted is no reason to fail.
    mutating func failed(_ failure: Failure) -> Action {
        state == .wanting ? enter(.awaitingTruth, .wantTruth) : enter(.finished, .fail(failure))
    }

    private mutating func waitOrGiveUp(_ now: Int64) -> Action {
        let end = waitEnds ?? now &+ max(question.fillWait, 0)
        waitEnds = end
        guard now < end else {
            hasWaitedInVain = question.fillWait > 0
            return enter(.awaitingTruth, .wantTruth)
        }
        let milliseconds = min(pause, end &- now)
        pause = min(pause * 2, Self.longestPause)
        return enter(.pausing, .pause(milliseconds: milliseconds))
    }

    private mutating func enter(_ state: State, _ action: Action) -> Action {
        self.state = state
        return action
    }
}
