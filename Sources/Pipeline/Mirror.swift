public import ReactionModel

/// The mirror of one leader's term: forms batches, has each applied to Redis and sent to ClickHouse, and finishes it when both are done.
///
/// Redis does not wait for ClickHouse, nor the other way round: each has a lane, batches pass it in order, and new batches are formed
/// while a lane backs off, the more slowly the more are under way. A failure of PostgreSQL ends the term: the next one takes up the
/// batches whose rows are not finished. That a user or an entity is gone Redis hears when ClickHouse has it, and so it does what is to
/// be counted: each on a lane of its own. Times are those of a monotonic clock; nothing here waits.
public struct Mirror: Sendable {
    public enum Action: Sendable {
        /// Look into the outbox and form a batch if there is something.
        case look
        case setAsleep(Bool)
        case awaitBell
        case apply(Batch)
        /// Redis could not be offered what is under way: make user maps and entities of these types absent instead.
        case raiseEpochs(Set<Int16>, insteadOf: Offer, through: BatchNumber)
        case send(Batch)
        /// ClickHouse has confirmed the batch: tell Redis which users and entities are gone by it.
        case remove(Batch)
        /// ClickHouse has confirmed the batch: count it in the entities that Redis holds.
        case count(Batch)
        case finish(Batch, LagHistogram)
        /// Say the time again at this moment.
        case wait(until: Duration)
        case stop
    }

    enum State: Equatable, Sendable {
        /// Forming and delivering batches. Can transition to: draining, stopped.
        case running
        /// Delivering what was formed. Can transition to: stopped.
        case draining(deadline: Duration)
        /// Nothing is begun any more.
        case stopped
    }

    /// What Redis is offered of a batch, each by a lane of its own.
    public enum Offer: Sendable {
        /// Changed reactions, as soon as the batch is formed.
        case changes
        /// Users and entities that are gone, after ClickHouse has confirmed it: a map that begins after the offer is made of what
        /// ClickHouse says, and finds nothing of them in the outbox.
        case removals
        /// Changed counts and reactors of entities, after ClickHouse has confirmed it: an entity is made of what ClickHouse says.
        case counts
    }

    public struct Settings: Sendable {
        public var idleBeforeSleep: Duration
        public var redisGiveUp: Duration
        public var shutdownTimeout: Duration
        /// The longest delay between attempts at a server that fails.
        public var longestBackoff: Duration

        public init(
            idleBeforeSleep: Duration, redisGiveUp: Duration, shutdownTimeout: Duration, longestBackoff: Duration
        ) {
            self.idleBeforeSleep = idleBeforeSleep
            self.redisGiveUp = redisGiveUp
            self.shutdownTimeout = shutdownTimeout
            self.longestBackoff = longestBackoff
        }
    }

    struct Entry: Sendable {
        var batch: Batch
        var isApplied = false
        var isRemoved: Bool
        var isCounted: Bool
        /// The lag once ClickHouse has confirmed the batch.
        var confirmedLag: LagHistogram?

        init(_ batch: Batch) {
            self.batch = batch
            isRemoved = !batch.hasRemovals
            isCounted = batch.events == 0
        }

        /// Whether this is still to be offered, and may be.
        func hasLeft(_ offer: Offer) -> Bool {
            switch offer {
            case .changes: !isApplied
            case .removals: !isRemoved && confirmedLag != nil
            case .counts: !isCounted && confirmedLag != nil
            }
        }
    }

    /// From one batch to the next at least the pace: what a batch costs PostgreSQL, and ClickHouse in merging its parts, it costs however
    /// few its events are. So the more events a second, the longer the pace: 100 ms up to 2,500 events a second, 500 ms from 12,500 on.
    /// A single event after a pause does not wait.
    static let shortestPace: Duration = .milliseconds(100)
    static let longestPace: Duration = .milliseconds(500)
    static let pacePerRate: Duration = .microseconds(40)
    /// With batches under way the next one is formed this much later for each of them, at most `longestStretch`, so that an outage of
    /// hours leaves hundreds of batches behind, not hundreds of thousands.
    static let stretch: Duration = .milliseconds(250)
    static let longestStretch: Duration = .seconds(5)
    /// Unless a server fails, a backlog is formed into batches this far ahead: one is being sent, one being read, one waits.
    static let mostAhead = 3

    private let settings: Settings
    private(set) var state = State.running
    private var bell: Bell
    private var applying: Lane
    private var sending: Lane
    private var removing: Lane
    private var counting: Lane
    /// Formed and not finished, in order.
    private(set) var entries: [Entry]
    private var isFinishing = false
    private var nextLook: Duration?
    private var lastFormed: Duration
    /// The last look has left something for the next one.
    private var isBehind = false
    private var pace = Self.shortestPace
    /// The earliest `wait` that is still to come.
    private var timer: Duration?

    /// - Parameter unfinished: the batches a former term left, in order.
    public init(
        settings: Settings, unfinished: [Batch], now: Duration,
        jitter: @escaping @Sendable () -> Double = { .random(in: 0..<1) }
    ) {
        self.settings = settings
        self.bell = Bell(idleBeforeSleep: settings.idleBeforeSleep, now: now)
        let backoff = Backoff(limit: settings.longestBackoff, jitter: jitter)
        self.applying = Lane(backoff: backoff)
        self.sending = Lane(backoff: backoff)
        self.removing = Lane(backoff: backoff)
        self.counting = Lane(backoff: backoff)
        self.entries = unfinished.map(Entry.init)
        self.lastFormed = unfinished.isEmpty ? now - Self.shortestPace : now
        self.nextLook = now
    }

    /// Batches formed and not finished, and of those, what each destination does not have yet.
    public struct Behind: Equatable, Sendable {
        public var batches = 0
        public var clickHouse = 0
        public var userMaps = 0
        /// Of those with users or entities that are gone.
        public var removals = 0
        public var entities = 0

        public init() {}

        public var byDestination: [(destination: String, batches: Int)] {
            [("clickhouse", clickHouse), ("user_maps", userMaps), ("removals", removals), ("entities", entities)]
        }
    }

    public var behind: Behind {
        entries.reduce(into: Behind()) { behind, entry in
            behind.batches += 1
            if entry.confirmedLag == nil { behind.clickHouse += 1 }
            if !entry.isApplied { behind.userMaps += 1 }
            if !entry.isRemoved { behind.removals += 1 }
            if !entry.isCounted { behind.entities += 1 }
        }
    }

    public var isRedisFailing: Bool { [applying, removing, counting].contains { $0.failingSince != nil } }
    public var isSinkFailing: Bool { sending.failingSince != nil }

    /// The beginning, or the moment of a `wait`.
    public mutating func timePassed(now: Duration) -> [Action] {
        if let timer, now >= timer { self.timer = nil }
        return advance(now: now)
    }

    /// - Parameters:
    ///   - hasMore: whether the batch was cut to its size.
    ///   - oldestRunning: the xmin of the look's snapshot.
    public mutating func looked(
        _ batch: Batch?, hasMore: Bool = false, oldestRunning: UInt64, now: Duration
    ) -> [Action] {
        isBehind = hasMore
        if let batch {
            entries.append(Entry(batch))
            let eventsPerSecond = Double(batch.events) / max((now - lastFormed) / .seconds(1), 0.001)
            pace = min(max(Self.pacePerRate * eventsPerSecond, Self.shortestPace), Self.longestPace)
            lastFormed = now
        }
        let action = bell.looked(
            found: (batch?.events ?? 0) > 0, oldestRunning: oldestRunning,
            isBusy: !entries.isEmpty || state != .running,
            now: now)
        return perform(action, now: now)
    }

    public mutating func fellAsleep(horizon: UInt64, now: Duration) -> [Action] {
        perform(bell.lainDown(horizon: horizon), now: now)
    }

    public mutating func bellHeard(now: Duration) -> [Action] {
        perform(bell.heard(), now: now)
    }

    public mutating func wokenUp(now: Duration) -> [Action] {
        perform(bell.wokenUp(now: now), now: now)
    }

    /// Redis has been offered this of the batch.
    public mutating func offered(_ offer: Offer, of number: BatchNumber, now: Duration) -> [Action] {
        self[offer].succeeded()
        markOffered(offer, through: number)
        return advance(now: now)
    }

    public mutating func offerFailed(_ offer: Offer, now: Duration) -> [Action] {
        self[offer].failed(now: now)
        guard let since = self[offer].failingSince, now - since >= settings.redisGiveUp, state == .running else {
            return advance(now: now)
        }
        return raiseEpochs(insteadOf: offer, now: now)
    }

    /// Redis does not hold what it was offered before, so nothing there can be built upon.
    public mutating func offerDisplaced(_ offer: Offer, now: Duration) -> [Action] {
        self[offer].failed(now: now)
        return raiseEpochs(insteadOf: offer, now: now)
    }

    private mutating func raiseEpochs(insteadOf offer: Offer, now: Duration) -> [Action] {
        guard let last = entries.last(where: { $0.hasLeft(offer) }) else { return advance(now: now) }
        self[offer].started()
        let types = entries.filter { $0.hasLeft(offer) }
            .reduce(into: Set<Int16>()) { $0.formUnion($1.batch.typeIDs) }
        return [.raiseEpochs(types, insteadOf: offer, through: last.batch.number)] + advance(now: now)
    }

    /// What is to be offered could not be asked of ClickHouse: no doing of Redis, and no epoch would help.
    public mutating func offerHindered(_ offer: Offer, now: Duration) -> [Action] {
        self[offer].hindered(now: now)
        return advance(now: now)
    }

    /// After a while Redis is tried again, and if that fails, this.
    public mutating func raiseFailed(insteadOf offer: Offer, now: Duration) -> [Action] {
        self[offer].failed(now: now)
        return advance(now: now)
    }

    /// What was to be offered, up to the batch, when it was decided to raise the epochs needs no offer any more. What ClickHouse has
    /// confirmed since is behind that batch.
    public mutating func epochsRaised(insteadOf offer: Offer, through number: BatchNumber, now: Duration) -> [Action] {
        self[offer].circumvented(now: now)
        markOffered(offer, through: number)
        return advance(now: now)
    }

    public mutating func batchConfirmed(_ number: BatchNumber, lag: LagHistogram, now: Duration) -> [Action] {
        sending.succeeded()
        for index in entries.indices where entries[index].batch.number == number { entries[index].confirmedLag = lag }
        return advance(now: now)
    }

    /// - Parameter slowly: whether only an operator can help.
    public mutating func sendFailed(slowly: Bool, now: Duration) -> [Action] {
        sending.failed(now: now, slowly: slowly)
        return advance(now: now)
    }

    public mutating func batchFinished(_ number: BatchNumber, now: Duration) -> [Action] {
        isFinishing = false
        entries.removeAll { $0.batch.number == number }
        if entries.isEmpty, nextLook != nil { nextLook = now }
        return advance(now: now)
    }

    public mutating func shutdownRequested(now: Duration) -> [Action] {
        guard state == .running else { return [] }
        state = .draining(deadline: now + settings.shutdownTimeout)
        return advance(now: now)
    }

    private mutating func markOffered(_ offer: Offer, through number: BatchNumber) {
        for index in entries.indices where entries[index].batch.number <= number {
            switch offer {
            case .changes: entries[index].isApplied = true
            case .removals: entries[index].isRemoved = true
            case .counts: entries[index].isCounted = true
            }
        }
    }

    private subscript(offer: Offer) -> Lane {
        get {
            switch offer {
            case .changes: applying
            case .removals: removing
            case .counts: counting
            }
        }
        set {
            switch offer {
            case .changes: applying = newValue
            case .removals: removing = newValue
            case .counts: counting = newValue
            }
        }
    }

    private var lanes: [Lane] { [applying, sending, removing, counting] }

    private mutating func perform(_ action: Bell.Action, now: Duration) -> [Action] {
        switch action {
        case .look(let delay):
            nextLook = now + delay
            return advance(now: now)
        case .lieDown: return [.setAsleep(true)] + advance(now: now)
        case .wakeUp: return [.setAsleep(false)] + advance(now: now)
        case .awaitBell: return [.awaitBell] + advance(now: now)
        }
    }

    /// Begins whatever can begin now.
    private mutating func advance(now: Duration) -> [Action] {
        guard state != .stopped else { return [] }
        if case .draining(let deadline) = state, now >= deadline {
            state = .stopped
            return [.stop]
        }
        var actions: [Action] = []
        if let entry = entries.first, entry.isApplied, entry.isRemoved, entry.isCounted, let lag = entry.confirmedLag,
            !isFinishing
        {
            isFinishing = true
            actions.append(.finish(entry.batch, lag))
        }
        if let entry = entries.first(where: { $0.hasLeft(.changes) }), canBegin(applying, now: now) {
            applying.started()
            actions.append(.apply(entry.batch))
        }
        if let entry = entries.first(where: { $0.confirmedLag == nil }), canBegin(sending, now: now) {
            sending.started()
            actions.append(.send(entry.batch))
        }
        if let entry = entries.first(where: { $0.hasLeft(.removals) }), canBegin(removing, now: now) {
            removing.started()
            actions.append(.remove(entry.batch))
        }
        if let entry = entries.first(where: { $0.hasLeft(.counts) }), canBegin(counting, now: now) {
            counting.started()
            actions.append(.count(entry.batch))
        }
        if state != .running, !isFinishing, !lanes.contains(where: { $0.state == .busy }) {
            state = .stopped
            return [.stop]
        }
        if state == .running, let look = lookDue, now >= look {
            nextLook = nil
            actions.append(.look)
        }
        return actions + wait(now: now)
    }

    /// While draining no server that failed is tried again: only what the other one takes is still waited for.
    private func canBegin(_ lane: Lane, now: Duration) -> Bool {
        state == .running ? lane.isReady(now: now) : lane.state == .idle
    }

    /// When to look next: later while batches are under way.
    private var lookDue: Duration? {
        guard let nextLook else { return nil }
        if isBehind, entries.count < Self.mostAhead, !isRedisFailing, !isSinkFailing { return nextLook }
        let spacing = max(pace, min(Self.stretch * entries.count, Self.longestStretch))
        return max(nextLook, lastFormed + spacing)
    }

    private mutating func wait(now: Duration) -> [Action] {
        var moments = ([lookDue] + lanes.map(\.nextAttempt)).compactMap { $0 }
        if case .draining(let deadline) = state { moments = [deadline] }
        guard let next = moments.min() else { return [] }
        if let timer, timer <= next { return [] }
        timer = next
        return [.wait(until: next)]
    }
}
