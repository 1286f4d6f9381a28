public import ClickHouseStore
public import ReactionModel

/// What became visible between two snapshots; its row is committed before anything of it is sent.
public struct Batch: Sendable {
    public var number: BatchNumber
    /// The snapshot at which the batch before ended; nil for the first batch of a cluster.
    public var previous: Snapshot?
    public var snapshot: Snapshot
    public var events: Int64
    /// Sum of the versions modulo 2^63.
    public var checksum: Int64
    /// Events per chunk.
    public var chunkEvents: Int32
    /// The entity types with an event in the batch.
    public var typeIDs: [Int16]
    /// Whether an event of it says that a user or an entity is gone; true if that is not known.
    public var hasRemovals: Bool
    /// What ClickHouse confirmed; nil if it has not, or if it made rows itself.
    public var mirrored: MirroredRows?
    /// The entity types, as of the transaction that formed or resumed the batch.
    public var catalog: [Int16: EntityType]

    public init(
        number: BatchNumber, previous: Snapshot?, snapshot: Snapshot, events: Int64, checksum: Int64,
        chunkEvents: Int32,
        typeIDs: [Int16], hasRemovals: Bool = false, catalog: [Int16: EntityType]
    ) {
        self.number = number
        self.previous = previous
        self.snapshot = snapshot
        self.events = events
        self.checksum = checksum
        self.chunkEvents = chunkEvents
        self.typeIDs = typeIDs
        self.hasRemovals = hasRemovals
        self.catalog = catalog
    }
}

/// Count and sum of versions of the events seen so far, to compare with the batch's row.
public struct BatchTally: Sendable, Equatable {
    public private(set) var events: Int64 = 0
    public private(set) var checksum: Int64 = 0

    public init() {}

    public mutating func add(_ events: some Sequence<Event>) {
        for event in events {
            self.events += 1
            checksum = (checksum &+ event.version.rawValue) & .max
        }
    }

    public func matches(_ batch: Batch) -> Bool {
        events == batch.events && checksum == batch.checksum
    }
}
