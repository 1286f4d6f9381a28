public import ReactionModel

/// One backfill as `reactions._backfill` has it: what is to be read, and how far it is.
public struct BackfillJob: Sendable {
    public var type: EntityType
    public var table: LegacyTable
    /// Of the rows that are read.
    public var version: Version
    /// Of the rows that make sums agree; below `version`, so that they never decide a state.
    public var sealVersion: Version
    /// Names this reading of the table.
    public var number: Int32
    public var relfilenode: Int64
    public var blocks: Int64
    public var rangeBlocks: Int64
    /// Partitions of earlier readings that were not sealed: they are dropped.
    public var abandoned: [Int64]
    public var isRead: Bool
    /// The last batch before every backfilled row was there.
    public var completeBatch: BatchNumber?
    /// Whether that batch, and so every one before, is in ClickHouse.
    public var isCompleteBatchFinished: Bool
    /// Every user up to it is sealed; nil before the first.
    public var sealedUsers: Int64?
    /// Some rows may be there twice.
    public var isDoubled: Bool

    public init(
        type: EntityType, table: LegacyTable, version: Version, sealVersion: Version, number: Int32, relfilenode: Int64,
        blocks: Int64, rangeBlocks: Int64, abandoned: [Int64], isRead: Bool, completeBatch: BatchNumber?,
        isCompleteBatchFinished: Bool, sealedUsers: Int64?, isDoubled: Bool
    ) {
        self.type = type
        self.table = table
        self.version = version
        self.sealVersion = sealVersion
        self.number = number
        self.relfilenode = relfilenode
        self.blocks = blocks
        self.rangeBlocks = rangeBlocks
        self.abandoned = abandoned
        self.isRead = isRead
        self.completeBatch = completeBatch
        self.isCompleteBatchFinished = isCompleteBatchFinished
        self.sealedUsers = sealedUsers
        self.isDoubled = isDoubled
    }

    public var batches: BackfillBatches { BackfillBatches(version: version, number: number) }
    public var ranges: Int { Int((blocks + rangeBlocks - 1) / rangeBlocks) }
}

/// An attached table as it is read; names are quoted for SQL.
public struct LegacyTable: Sendable {
    public var name: String
    public var userColumn: String
    public var entityColumn: String
    public var kindColumn: String
    /// Nil: the table does not say when its rows were made.
    public var createdColumn: String?
    /// Where labels of the kind column lead; nil: to no kind, the row is skipped. Other labels are names of kinds.
    public var kindMap: [String: String?]
    /// Whether rows of unknown kinds are skipped, too; else they are an error.
    public var skipsUnknownKinds: Bool

    public init(
        name: String, userColumn: String, entityColumn: String, kindColumn: String, createdColumn: String?,
        kindMap: [String: String?], skipsUnknownKinds: Bool
    ) {
        self.name = name
        self.userColumn = userColumn
        self.entityColumn = entityColumn
        self.kindColumn = kindColumn
        self.createdColumn = createdColumn
        self.kindMap = kindMap
        self.skipsUnknownKinds = skipsUnknownKinds
    }
}
