public import ClickHouseStore
public import Pipeline
public import ReactionModel
import Synchronization

/// ClickHouse in memory: keeps what was inserted by (batch, version), and fails as told.
public final class MemorySink: Sink {
    private struct State {
        var rows: [Row] = []
        var inserts = 0
        var firsts = 0
        var connects = 0
        var startedAt: Int64 = 0
        var isAway = false
        var failures: [SinkError] = []
        var refused: Set<Version> = []
        var unanswered: Version?
        var isSettled = true
        var tells = true
        var chunksLookedAt = 0
    }

    public struct Row: Sendable, Equatable {
        public var batch: BatchNumber
        public var event: Event
    }

    private let state = Mutex(State())

    public init() {}

    public var rows: [Row] { state.withLock { $0.rows } }
    public var versions: [Int64] { rows.map(\.event.version.rawValue) }
    public var inserts: Int { state.withLock { $0.inserts } }
    /// Inserts that nobody had tried before.
    public var firsts: Int { state.withLock { $0.firsts } }
    public var connects: Int { state.withLock { $0.connects } }

    /// Whether nobody knows who it is.
    public func setAway(_ isAway: Bool) { state.withLock { $0.isAway = isAway } }

    /// The next requests fail in this way, one each.
    public func fail(_ errors: [SinkError]) { state.withLock { $0.failures += errors } }

    /// Every insert with this version is refused for its content.
    public func refuse(_ version: Int64) { state.withLock { _ = $0.refused.insert(Version(rawValue: version)) } }

    /// No insert with this version is answered, until it is another one or none.
    public func leaveUnanswered(_ version: Int64?) {
        state.withLock { $0.unanswered = version.map(Version.init(rawValue:)) }
    }

    /// Whether inserts tell what they left, so that a batch can be verified as a whole.
    public func setTelling(_ tells: Bool) { state.withLock { $0.tells = tells } }
    /// Chunks that were verified one by one.
    public var chunksLookedAt: Int { state.withLock { $0.chunksLookedAt } }

    /// Whether a late attempt can still arrive.
    public func setSettled(_ isSettled: Bool) { state.withLock { $0.isSettled = isSettled } }

    /// The server starts anew without the rows of these versions.
    public func restart(losing versions: Set<Int64>, at time: Int64) {
        state.withLock { state in
            state.rows.removeAll { versions.contains($0.event.version.rawValue) }
            state.startedAt = time
        }
    }

    /// The state by the rows, in order of versions.
    public func flags(user: Int64, entity: Int64, type: Int16 = 1) -> Int32 {
        rows.map(\.event).filter { $0.key([:]) == ReactionKey(typeID: type, userID: user, entityID: entity) }
            .sorted { $0.version < $1.version }
            .reduce(0) { $0.applying(setMask: $1.setMask, clearMask: $1.clearMask) }
    }

    public func connect() async throws(SinkError) -> SinkIdentity {
        let (isAway, startedAt) = state.withLock { state in
            state.connects += 1
            return (state.isAway, state.startedAt)
        }
        guard !isAway else { throw SinkError(disposition: .retry, message: "away") }
        return SinkIdentity(version: "memory", startedAt: startedAt)
    }

    public func insert(
        _ chunk: Chunk, catalog: [Int16: EntityType], isFirst: Bool
    ) async throws(SinkError) -> MirroredRows? {
        let failure = state.withLock { state -> SinkError? in
            if !state.failures.isEmpty { return state.failures.removeFirst() }
            state.inserts += 1
            guard !chunk.events.contains(where: { $0.version == state.unanswered }) else {
                return SinkError(disposition: .retry, message: "no answer")
            }
            guard state.refused.isDisjoint(with: chunk.events.map(\.version)) else {
                return SinkError(disposition: .rejectBatch, status: 400, code: 27, message: "refused")
            }
            // Nothing is looked for at a first attempt: what is there already would be there twice.
            let present = isFirst ? [] : Set(state.rows.filter { $0.batch == chunk.batch }.map(\.event.version))
            if isFirst { state.firsts += 1 }
            state.rows += chunk.events.filter { !present.contains($0.version) }.map {
                Row(batch: chunk.batch, event: $0)
            }
            return nil
        }
        if let failure { throw failure }
        return state.withLock { $0.tells } ? Self.rows(chunk.events) : nil
    }

    public func rows(of batches: ClosedRange<BatchNumber>) async throws(SinkError) -> [BatchNumber: MirroredRows] {
        let found = rows.filter { batches.contains($0.batch) }
        return Dictionary(grouping: found, by: \.batch).mapValues { Self.rows($0.map(\.event)) }
    }

    private static func rows(_ events: [Event]) -> MirroredRows {
        var rows = MirroredRows()
        for table in MirrorTable.allCases {
            rows[table] = Tally(
                rows: Int64(events.count), checksum: events.reduce(0) { $0 &+ $1.version.rawValue })
        }
        return rows
    }

    public func settle(_ batch: BatchNumber) async throws(SinkError) -> ContinuousClock.Instant? {
        state.withLock { $0.isSettled } ? nil : .now + .milliseconds(10)
    }

    public func contains(_ chunk: Chunk, catalog: [Int16: EntityType]) async throws(SinkError) -> Bool {
        state.withLock { $0.chunksLookedAt += 1 }
        let present = Set(rows.filter { $0.batch == chunk.batch }.map(\.event.version))
        return chunk.events.allSatisfy { present.contains($0.version) }
    }

    public func users(
        removedBy event: Event, of type: EntityType, above user: Int64?, limit: Int
    ) async throws(SinkError) -> [Int64] {
        let users = Set(
            rows.map(\.event).filter { $0.scope == .reaction && $0.entityID == event.entityID }.map(\.userID))
        return Array(users.filter { $0 > user ?? .min }.sorted().prefix(limit))
    }

    public func flags(
        of keys: [ReactionKey], before batch: BatchNumber, _ version: Version, catalog: [Int16: EntityType]
    ) async throws(SinkError) -> [ReactionKey: KnownFlags] {
        let wanted = Set(keys)
        let events = rows.filter {
            ($0.batch, $0.event.version) < (batch, version) && wanted.contains($0.event.key(catalog))
        }
        .map(\.event).sorted { $0.version < $1.version }
        return events.reduce(into: [:]) { flags, event in
            let key = event.key(catalog)
            flags[key, default: KnownFlags()].flags = (flags[key]?.flags ?? 0)
                .applying(setMask: event.setMask, clearMask: event.clearMask)
        }
    }
}

/// Redis in memory: remembers what it was offered, and fails while told so.
public final class MemoryCache: Cache {
    private struct State {
        var events: [Event] = []
        var isFailing = false
        var dropped: [Int64] = []
    }

    private let state = Mutex(State())

    public init() {}

    /// Users whose map was dropped.
    public var dropped: [Int64] { state.withLock { $0.dropped } }
    public var events: [Event] { state.withLock { $0.events } }
    public var versions: Set<Int64> { state.withLock { Set($0.events.map(\.version.rawValue)) } }
    public func setFailing(_ isFailing: Bool) { state.withLock { $0.isFailing = isFailing } }

    public func apply(_ events: [Event], catalog: [Int16: EntityType]) async throws(CacheError) {
        let isFailing = state.withLock { state in
            if !state.isFailing { state.events += events }
            return state.isFailing
        }
        if isFailing { throw CacheError(message: "away") }
    }

    @discardableResult
    public func drop(_ users: [Int64], of type: EntityType) async throws(CacheError) -> Int {
        let isFailing = state.withLock { state in
            if !state.isFailing { state.dropped += users }
            return state.isFailing
        }
        if isFailing { throw CacheError(message: "away") }
        return users.count
    }
}
