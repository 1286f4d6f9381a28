/// What an event speaks of.
public enum EventScope: UInt8, Sendable {
    /// One reaction: a user's kinds on one entity.
    case reaction = 0x72  // 'r'
    /// Every reaction of the type: the legacy table was truncated.
    case type = 0x74  // 't'
    /// Every reaction of the user in the type: the user is gone.
    case user = 0x75  // 'u'
    /// Every reaction on the entity: it is gone.
    case entity = 0x65  // 'e'
}

/// Bits set and bits cleared on one reaction, as the outbox holds it.
public struct Event: Hashable, Sendable {
    public var version: Version
    public var scope: EventScope
    /// `reactions.entity_type.type_id`.
    public var typeID: Int16
    public var userID: Int64
    public var entityID: Int64
    /// Bits set by the event. With `isDeltaKnown` each of them was clear before.
    public var setMask: Int32
    /// Bits cleared by the event. With `isDeltaKnown` each of them was set before. A bit in both masks ends set.
    public var clearMask: Int32
    /// Whether the masks are exactly what changed. If not, the agent resolves the change in version order.
    public var isDeltaKnown: Bool
    /// Time of the reaction, microseconds since 1970-01-01 UTC.
    public var createdAt: Int64
    /// Time of the write, microseconds since 1970-01-01 UTC; the start of the lag.
    public var writtenAt: Int64

    public init(
        version: Version, scope: EventScope = .reaction, typeID: Int16, userID: Int64, entityID: Int64, setMask: Int32,
        clearMask: Int32, isDeltaKnown: Bool = true, createdAt: Int64, writtenAt: Int64
    ) {
        self.version = version
        self.scope = scope
        self.typeID = typeID
        self.userID = userID
        self.entityID = entityID
        self.setMask = setMask
        self.clearMask = clearMask
        self.isDeltaKnown = isDeltaKnown
        self.createdAt = createdAt
        self.writtenAt = writtenAt
    }
}
