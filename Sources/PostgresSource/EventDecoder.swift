internal import ReactionModel

/// Decodes the rows of `COPY (SELECT <columns>) TO STDOUT (FORMAT binary)` in place.
struct EventDecoder {
    static let columns = """
        version, type_id, scope, user_id, entity_id, set_mask, clear_mask, delta_known, created_at, written_at
        """
    private static let columnCount: Int16 = 10

    private var header = BinaryCopyHeader()

    /// One row as libpq hands it over. Nil if there is no event in it.
    mutating func decode(_ bytes: UnsafeRawBufferPointer) throws(PostgresError) -> Event? {
        var reader = BinaryCopyRow(bytes: bytes)
        guard try header.precedesRow(in: &reader) else { return nil }
        let count = try reader.integer(Int16.self)
        if count == -1 { return nil }
        guard count == Self.columnCount else { throw BinaryCopyRow.nonsense }
        let version = try reader.field(Int64.self)
        let typeID = try reader.field(Int16.self)
        guard let scope = EventScope(rawValue: try reader.field(UInt8.self)) else { throw BinaryCopyRow.nonsense }
        let event = Event(
            version: Version(rawValue: version), scope: scope, typeID: typeID, userID: try reader.field(Int64.self),
            entityID: try reader.field(Int64.self), setMask: try reader.field(Int32.self),
            clearMask: try reader.field(Int32.self), isDeltaKnown: try reader.field(UInt8.self) != 0,
            createdAt: PostgresTime.unixTime(try reader.field(Int64.self)),
            writtenAt: PostgresTime.unixTime(try reader.field(Int64.self)))
        guard reader.isAtEnd else { throw BinaryCopyRow.nonsense }
        return event
    }
}
