public import ClickHouseStore
public import ReactionModel

/// A run of consecutive events of one batch, in version order: what is sent, verified and resent as one.
public struct Chunk: Sendable {
    public var batch: BatchNumber
    /// Position of the first event within the batch, from 0. A refused chunk is bisected, and its halves are chunks of their own: the
    /// position names each of them, and the same one after a crash.
    public var part: Int32
    /// Every event has its delta known when the chunk reaches `Sink.insert`.
    public var events: [Event]

    public init(batch: BatchNumber, part: Int32, events: [Event]) {
        self.batch = batch
        self.part = part
        self.events = events
    }
}

/// One reaction's key.
public struct ReactionKey: Hashable, Sendable {
    public var typeID: Int16
    public var userID: Int64
    public var entityID: Int64
    /// The version of the backfill in whose era its state is asked for; 0 without one.
    public var era: Version

    public init(typeID: Int16, userID: Int64, entityID: Int64, era: Version = .zero) {
        self.typeID = typeID
        self.userID = userID
        self.entityID = entityID
        self.era = era
    }
}

/// What is known of one reaction's kinds.
public struct KnownFlags: Equatable, Sendable {
    public var flags: Int32
    /// The bits of which nothing is known: rows of the table that are still to be read may have them.
    public var unknown: Int32

    public init(flags: Int32 = 0, unknown: Int32 = 0) {
        self.flags = flags
        self.unknown = unknown
    }
}

/// Where events are mirrored to: ClickHouse, or a double in tests.
public protocol Sink: Sendable {
    /// Asks the server who it is and what it can do; called after every (re)connect. Returns its start time in unix seconds, by
    /// which a restart is noticed, and its version.
    func connect() async throws(SinkError) -> SinkIdentity

    /// Inserts the chunk into the three tables, `entityMetricEvents` last, exactly once: may be called again with the same chunk after
    /// any error, also by another process, and leaves one copy. Returns when the server has confirmed.
    ///
    /// - Parameter isFirst: whether nobody can have tried it before, so that there is no need to look what is there already.
    /// - Returns: what the tables have of the chunk now; nil if the server made the rows itself.
    func insert(_ chunk: Chunk, catalog: [Int16: EntityType], isFirst: Bool) async throws(SinkError) -> MirroredRows?

    /// What the tables hold of these batches; those of which there is nothing are left out.
    func rows(of batches: ClosedRange<BatchNumber>) async throws(SinkError) -> [BatchNumber: MirroredRows]

    /// Looks again at the batch's chunks of which an attempt went unanswered, since the server may still have been about to begin it.
    /// Returns when to ask again, or nil if no such attempt can add anything any more.
    func settle(_ batch: BatchNumber) async throws(SinkError) -> ContinuousClock.Instant?

    /// Whether each of the three tables has exactly the chunk's rows, by count and sum.
    func contains(_ chunk: Chunk, catalog: [Int16: EntityType]) async throws(SinkError) -> Bool

    /// Users, ascending and above one, whose reactions on its entity the event has taken away; fewer than the limit at their end. Known
    /// when the event's batch is confirmed.
    func users(
        removedBy event: Event, of type: EntityType, above user: Int64?, limit: Int
    ) async throws(SinkError) -> [Int64]

    /// The flags of each key as of every row whose (batch, version) is below the given one; keys of which it is known that they have
    /// no reaction are left out.
    ///
    /// The version alone would not do: a long transaction brings versions into a batch that are lower than some of the batch before.
    /// Of a backfill that is not complete no row counts, nor any that is older: every attempt finds the same (`BackfillEra`).
    func flags(
        of keys: [ReactionKey], before batch: BatchNumber, _ version: Version, catalog: [Int16: EntityType]
    ) async throws(SinkError) -> [ReactionKey: KnownFlags]
}

public struct SinkIdentity: Hashable, Sendable {
    public var version: String
    public var startedAt: Int64

    public init(version: String, startedAt: Int64) {
        self.version = version
        self.startedAt = startedAt
    }
}

/// A failure of a sink with what to do about it, decided from codes, never from message text.
public struct SinkError: Error, Sendable {
    public enum Disposition: Sendable {
        /// Try again later, on the same or a new connection.
        case retry
        /// The content was refused: bisect and park.
        case rejectBatch
        /// Configuration or privilege: tell the operator and keep trying slowly.
        case stop
    }

    public var disposition: Disposition
    /// HTTP status, 0 if there was no answer.
    public var status: Int
    /// ClickHouse's error code, 0 if none.
    public var code: Int
    public var message: String

    public init(disposition: Disposition, status: Int = 0, code: Int = 0, message: String) {
        self.disposition = disposition
        self.status = status
        self.code = code
        self.message = message
    }
}
