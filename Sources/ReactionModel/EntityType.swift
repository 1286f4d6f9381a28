/// Whether the kinds of one reaction combine.
public enum Mode: String, Sendable {
    /// Flags combine, as for images.
    case multi
    /// One kind at a time, as for posts.
    case exclusive
}

/// Where an entity type stands in its migration (design, section 6).
public enum Phase: String, Sendable {
    /// The type never had a table. Writes go to the outbox, reads come from Redis and ClickHouse.
    case native
    case attached
    case dualRead = "dual_read"
    case switchReads = "switch_reads"
    case stopWrites = "stop_writes"
    case archived
    /// Its capture was dropped; what was captured before is still mirrored.
    case detached
}

/// An entity type as the agent knows it, a row of `reactions.entity_type` with its kinds.
public struct EntityType: Hashable, Sendable {
    public var typeID: Int16
    /// "Image": entityType in ClickHouse.
    public var name: String
    public var mode: Mode
    public var phase: Phase
    public var kinds: [Kind]
    public var userMapKey: KeyTemplate
    public var entityKey: KeyTemplate
    public var shardCount: Int32
    public var epoch: Int64
    /// The backfills of its table, by version.
    public var eras: [BackfillEra]
    /// Whether every row that its table had is in ClickHouse, with sums of deltas that agree; true without a table.
    public var isBackfilled: Bool

    public init(
        typeID: Int16, name: String, mode: Mode, phase: Phase, kinds: [Kind], userMapKey: KeyTemplate,
        entityKey: KeyTemplate, shardCount: Int32, epoch: Int64, eras: [BackfillEra] = [], isBackfilled: Bool = true
    ) {
        self.typeID = typeID
        self.name = name
        self.mode = mode
        self.phase = phase
        self.kinds = kinds
        self.userMapKey = userMapKey
        self.entityKey = entityKey
        self.shardCount = shardCount
        self.epoch = epoch
        self.eras = eras
        self.isBackfilled = isBackfilled
    }

    /// Whether ClickHouse can tell the counts of its entities, and goes on to hear of every change.
    public var isCounted: Bool { isBackfilled && phase != .detached }

    /// The newest backfill that began before the event; nil if there was none.
    public func era(of version: Version) -> BackfillEra? {
        eras.last { $0.version < version }
    }
}
