import CReactionsBoundary

/// A conversation that C drives step by step.
///
/// Owns the memory of its answers. Whom it is talking to is noted while it does, so that ending it in mid-conversation closes
/// those connections and no others.
class Exchange {
    enum Step {
        case wait(Wait)
        case wantTruth
        case done
        case failed(Failure)
    }

    let session: Session
    private(set) var failure: Failure?
    private var isDone = false
    private var redisInUse: Redis?
    private var clickHouseInUse: ClickHouseLink?

    init(_ session: Session) {
        self.session = session
    }

    /// One step of the kind of exchange that this is. Not called again once it has answered done or failed.
    func advance(at now: Int64) -> Step {
        .failed(.brokenContract("The exchange has no course."))
    }

    final func step() -> rx_wait {
        if isDone { return rx_wait(RX_DONE) }
        if failure != nil { return rx_wait(RX_FAILED) }
        switch advance(at: monotonicMilliseconds()) {
        case .wait(let wait): return wait.forC
        case .wantTruth: return rx_wait(RX_WANT_TRUTH)
        case .done:
            isDone = true
            return rx_wait(RX_DONE)
        case .failed(let failure):
            fail(failure)
            return rx_wait(RX_FAILED)
        }
    }

    final func fail(_ failure: Failure) {
        if self.failure == nil { self.failure = failure }
    }

    final func end() {
        redisInUse?.abandon()
        clickHouseInUse?.cancel()
        redisInUse = nil
        clickHouseInUse = nil
    }

    /// Runs `start` and notes that Redis is in use, until `pollRedis` has returned nil or failed.
    final func startRedis(_ start: (Redis) throws(Failure) -> Void) throws(Failure) {
        try start(session.redis)
        redisInUse = session.redis
    }

    final func pollRedis(at now: Int64) throws(Failure) -> Wait? {
        guard let redis = redisInUse else { throw .brokenContract("Redis was not asked anything.") }
        do throws(Failure) {
            let wait = try redis.advance(now)
            if wait == nil { redisInUse = nil }
            return wait
        } catch {
            redisInUse = nil
            throw error
        }
    }

    final func startClickHouse(_ start: (ClickHouseLink) throws(Failure) -> Void) throws(Failure) {
        try start(session.clickHouse)
        clickHouseInUse = session.clickHouse
    }

    final func pollClickHouse(at now: Int64) throws(Failure) -> Wait? {
        guard let link = clickHouseInUse else { throw .brokenContract("ClickHouse was not asked anything.") }
        do throws(Failure) {
            let wait = try link.advance(now)
            if wait == nil { clickHouseInUse = nil }
            return wait
        } catch {
            clickHouseInUse = nil
            throw error
        }
    }
}

/// An array at a fixed address, lent to C until it is replaced or its exchange ends.
final class LentArray<Element: BitwiseCopyable> {
    private let storage: UnsafeMutableBufferPointer<Element>

    init(_ elements: [Element]) {
        storage = .allocate(capacity: elements.count)
        _ = storage.initialize(from: elements)
    }

    deinit {
        storage.deallocate()
    }

    var start: UnsafePointer<Element>? { UnsafePointer(storage.baseAddress) }
    var count: Int { storage.count }
}

/// An exchange that wants the truth and answers entities with flags.
class TruthExchange: Exchange {
    /// Set by C in answer to `Step.wantTruth`.
    private var givenTruth: GivenTruth?
    private var wantedIDs: LentArray<Int64>?
    private var wantsWholeUser = false
    private var limit: Int32 = 0
    private var answerIDs: [Int64] = []
    private var answerFlags: [Int32] = []
    private var isComplete = false
    private var missed = 0

    /// A copy of the truth that C gave.
    struct GivenTruth {
        var floor: Int64
        var outbox: [rx_event]
        var entityIDs: [Int64]
        var flags: [Int32]
        var overflows: Bool

        init(_ truth: rx_truth) {
            floor = truth.floor
            outbox = Array(
                UnsafeBufferPointer(start: truth.outbox, count: truth.outbox == nil ? 0 : truth.outbox_count))
            entityIDs = Array(
                UnsafeBufferPointer(start: truth.entity_ids, count: truth.entity_ids == nil ? 0 : truth.count))
            flags = Array(UnsafeBufferPointer(start: truth.flags, count: truth.flags == nil ? 0 : truth.count))
            overflows = truth.overflow != 0
        }
    }

    final func want(ids: [Int64]?, limit: Int32) {
        wantedIDs = ids.map { LentArray($0) }
        wantsWholeUser = ids == nil
        self.limit = limit
        givenTruth = nil
    }

    final var wanted: rx_truth_wanted {
        rx_truth_wanted(
            whole_user: wantsWholeUser ? 1 : 0, limit: limit, entity_ids: wantedIDs?.start,
            entity_count: wantedIDs?.count ?? 0)
    }

    final func give(_ truth: rx_truth) {
        givenTruth = GivenTruth(truth)
    }

    /// The truth that C has given since it was last wanted.
    final func takeTruth() -> GivenTruth? {
        defer { givenTruth = nil }
        return givenTruth
    }

    /// - Parameter ids: as many as `flags`; of a read by ids none, since who has asked knows them.
    final func answer(ids: [Int64] = [], flags: [Int32], isComplete: Bool) {
        answerIDs = ids
        answerFlags = flags
        self.isComplete = isComplete
    }

    /// How many ids of a read the map did not know.
    final func miss(_ count: Int) {
        missed = count
    }

    final var result: rx_read_result {
        rx_read_result(count: answerFlags.count, missed: missed, complete: isComplete ? 1 : 0)
    }

    final func copyAnswer(_ ids: UnsafeMutablePointer<Int64>?, _ flags: UnsafeMutablePointer<Int32>?) {
        Self.copy(answerIDs, to: ids)
        Self.copy(answerFlags, to: flags)
    }

    /// Safe because: C has room for `result.count` numbers, or gives nil.
    private static func copy<Number: BitwiseCopyable>(_ numbers: [Number], to place: UnsafeMutablePointer<Number>?) {
        numbers.withUnsafeBufferPointer { numbers in
            guard let start = numbers.baseAddress else { return }
            place?.update(from: start, count: numbers.count)
        }
    }
}
