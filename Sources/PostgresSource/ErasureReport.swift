/// What `reactiond forget` shows of one type: a row of the view `reactions.forgotten_users`.
public struct ErasureReport: Sendable, Equatable {
    public var entityType: String
    /// `requested`, `removed` or `erased`.
    public var state: String
    /// `mirror`, `backfill`, `outbox` or `clickhouse`.
    public var waitsFor: String?
    /// Nil for a type without a table.
    public var tableRows: Int64?
    public var clickHouseRows: Int64?
    public var userMaps: Int64?

    public init(
        entityType: String, state: String, waitsFor: String?, tableRows: Int64?, clickHouseRows: Int64?,
        userMaps: Int64?
    ) {
        self.entityType = entityType
        self.state = state
        self.waitsFor = waitsFor
        self.tableRows = tableRows
        self.clickHouseRows = clickHouseRows
        self.userMaps = userMaps
    }
}
