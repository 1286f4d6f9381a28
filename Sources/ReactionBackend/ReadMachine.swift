/// Which part of the user the truth is asked for.
enum TruthScope: Equatable {
    case wholeUser
    /// The ids that the map did not know.
    case unknownIDs
}

/// Decides the course of a read; a shell runs the actions and reports what came of them.
///
/// The order of a filling read is fixed by correctness: the map's nonce is fetched, then the truth is read in a snapshot taken after
/// that, then the fill is offered under the nonce. A read that may not fill, or that another session's fill keeps waiting too long,
/// asks the truth for just what it needs and stores nothing.
struct ReadMachine {
    enum Source {
        case none
        case table
        case clickHouse
    }

    struct Question {
        /// Every reaction of the user, not some ids.
        var isWholeMap: Bool
        var mayFill: Bool
        var skipsRedis: Bool
        var source: Source
        /// Milliseconds to wait for another session's fill.
        var fillWait: Int64
    }

    /// What the map said of what was asked.
    enum Finding: Equatable {
        case everything(isTouchDue: Bool)
        /// The whole map is asked for and the user has more than a map holds.
        case tooMany
        case gaps
    }

    enum MapSize: Equatable {
        case new
        case complete
        case partial
    }

    enum Action: Equatable {
        case openRedis
        case readMap
        case askMiss
        case pause(milliseconds: Int64)
        case wantTruth(TruthScope)
        case askClickHouse(TruthScope)
        /// Offer the truth to the map: all of the user, some ids, or only that the user has too many.
        case fillComplete
        case fillIDs
        case fillTooMany
        case touch
        case finish(Outcome)
        case fail(Failure)
    }

    enum Outcome: Equatable {
        case answered
        case tooMany
        /// Without a truth to ask: what the map did not know stays unknown.
        case gaps
    }

    enum State: Equatable {
        /// Can transition to: opening, awaitingTruth, finished.
        case idle
        /// Can transition to: reading, finished.
        case opening
        /// Can transition to: missing, touching, awaitingTruth, finished.
        case reading
        /// Can transition to: opening, pausing, awaitingTruth, finished.
        case missing
        /// Can transition to: opening.
        case pausing
        /// Can transition to: awaitingTruth, querying, filling, finished.
        case awaitingTruth(TruthScope)
        /// Can transition to: querying, filling, finished.
        case querying(TruthScope)
        /// The answer is known. Can transition to: finished.
        case filling(Outcome)
        /// The answer is known. Can transition to: finished.
        case touching
        case finished
    }

    static let shortestPause: Int64 = 2
    static let longestPause: Int64 = 16

    let question: Question
    private(set) var state = State.idle
    private var isGranted = false
    private var pause = Self.shortestPause
    private var waitEnds: Int64?

    init(_ question: Question) {
        self.question = question
    }

    mutating func started() -> Action {
        guard question.skipsRedis else { return enter(.opening, .openRedis) }
        return question.source == .none ? finish(.gaps) : want(smallestScope)
    }

    mutating func redisOpened() -> Action {
        enter(.reading, .readMap)
    }

    mutating func mapRead(_ finding: Finding) -> Action {
        switch finding {
        case .everything(let isTouchDue):
            return isTouchDue && question.mayFill ? enter(.touching, .touch) : finish(.answered)
        case .tooMany: return finish(.tooMany)
        case .gaps:
            if question.source == .none { return finish(.gaps) }
            return question.mayFill ? enter(.missing, .askMiss) : want(smallestScope)
        }
    }

    /// - Parameter now: milliseconds.
    mutating func missAnswered(_ size: MapSize, isGranted: Bool, at now: Int64) -> Action {
        guard isGranted else { return waitOrGiveUp(now) }
        if size == .partial, question.isWholeMap { return finish(.tooMany) }
        self.isGranted = true
        return want(size == .new ? .wholeUser : smallestScope)
    }

    /// Another server has the map by now.
    mutating func mapMoved() -> Action {
        enter(.opening, .openRedis)
    }

    /// The connection may be gone by now.
    mutating func pauseEnded() -> Action {
        enter(.opening, .openRedis)
    }

    /// - Parameter overflows: the user has more than the limit, and only that is known.
    mutating func truthGiven(overflows: Bool) -> Action {
        guard case .awaitingTruth(let scope) = state else { return broken() }
        if question.source == .clickHouse { return enter(.querying(scope), .askClickHouse(scope)) }
        return truthKnown(scope, overflows: overflows)
    }

    mutating func clickHouseAnswered(overflows: Bool) -> Action {
        guard case .querying(let scope) = state else { return broken() }
        return truthKnown(scope, overflows: overflows)
    }

    mutating func filled() -> Action {
        guard case .filling(let outcome) = state else { return broken() }
        return finish(outcome)
    }

    mutating func touched() -> Action {
        finish(.answered)
    }

    /// Writes never need Redis, so a read without a truth takes its failure for "unknown". A read that has its answer is not spoiled
    /// by a failing fill.
    mutating func redisFailed(_ failure: Failure) -> Action {
        switch state {
        case .filling(let outcome): finish(outcome)
        case .touching: finish(.answered)
        case .idle, .opening, .reading, .missing, .pausing, .awaitingTruth, .querying, .finished:
            question.source == .none ? finish(.gaps) : fail(failure)
        }
    }

    mutating func clickHouseFailed(_ failure: Failure) -> Action {
        fail(failure)
    }

    private var smallestScope: TruthScope { question.isWholeMap ? .wholeUser : .unknownIDs }

    private mutating func waitOrGiveUp(_ now: Int64) -> Action {
        let end = waitEnds ?? now &+ max(question.fillWait, 0)
        waitEnds = end
        guard now < end else { return want(smallestScope) }
        let milliseconds = min(pause, end &- now)
        pause = min(pause * 2, Self.longestPause)
        return enter(.pausing, .pause(milliseconds: milliseconds))
    }

    private mutating func truthKnown(_ scope: TruthScope, overflows: Bool) -> Action {
        switch (scope, overflows) {
        case (.wholeUser, true) where question.isWholeMap:
            return isGranted ? enter(.filling(.tooMany), .fillTooMany) : finish(.tooMany)
        case (.wholeUser, true):
            // ClickHouse needs no second look at the outbox, which was read for the whole user.
            if question.source == .clickHouse { return enter(.querying(.unknownIDs), .askClickHouse(.unknownIDs)) }
            return want(.unknownIDs)
        case (.wholeUser, false):
            return isGranted ? enter(.filling(.answered), .fillComplete) : finish(.answered)
        case (.unknownIDs, _):
            return isGranted ? enter(.filling(.answered), .fillIDs) : finish(.answered)
        }
    }

    private mutating func want(_ scope: TruthScope) -> Action {
        enter(.awaitingTruth(scope), .wantTruth(scope))
    }

    private mutating func finish(_ outcome: Outcome) -> Action {
        enter(.finished, .finish(outcome))
    }

    private mutating func fail(_ failure: Failure) -> Action {
        enter(.finished, .fail(failure))
    }

    private mutating func broken() -> Action {
        fail(.brokenContract("The read was told of something that it had not asked for."))
    }

    private mutating func enter(_ state: State, _ action: Action) -> Action {
        self.state = state
        return action
    }
}
