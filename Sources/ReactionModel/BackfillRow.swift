/// A reaction as a row of an attached table has it.
public struct BackfillRow: Equatable, Sendable {
    public var userID: Int64
    public var entityID: Int64
    /// Microseconds since 1970-01-01 UTC; 0 if the row does not say.
    public var createdAt: Int64
    /// Position in the type's `kinds`.
    public var kind: Int32

    public init(userID: Int64, entityID: Int64, createdAt: Int64, kind: Int32) {
        self.userID = userID
        self.entityID = entityID
        self.createdAt = createdAt
        self.kind = kind
    }
}
