internal import ReactionModel

/// Decodes the rows of `COPY (SELECT <columns>) TO STDOUT (FORMAT binary)` in place.
struct EventDecoder {
    static let columns = """
        version, type_id, scope, user_id, entity_id, set_mask, clear_mask, delta_known, created_at, written_at
        """
    private static let columnCount: Int16 = 10
    private static let signature: [UInt8] = Array("PGCOPY\n".utf8) + [0xff, 0x0d, 0x0a, 0x00]
    /// PostgreSQL counts microseconds from 2000-01-01, we count from 1970-01-01.
    private static let epochOffset: Int64 = 946_684_800_000_000

    private var sawHeader = false

    /// One row as libpq hands it over; the first is preceded by the header, the last one is the trailer. Nil if there is no event in it.
    mutating func decode(_ bytes: UnsafeRawBufferPointer) throws(PostgresError) -> Event? {
        var reader = Reader(bytes: bytes)
        if !sawHeader {
            for byte in Self.signature {
                guard try reader.integer(UInt8.self) == byte else { throw Self.nonsense }
            }
            _ = try reader.integer(Int32.self)
            guard try reader.integer(Int32.self) == 0 else { throw Self.nonsense }
            sawHeader = true
            if reader.isAtEnd { return nil }
        }
        let count = try reader.integer(Int16.self)
        if count == -1 { return nil }
        guard count == Self.columnCount else { throw Self.nonsense }
        let version = try reader.field(Int64.self)
        let typeID = try reader.field(Int16.self)
        guard let scope = EventScope(rawValue: try reader.field(UInt8.self)) else { throw Self.nonsense }
        let event = Event(
            version: Version(rawValue: version), scope: scope, typeID: typeID, userID: try reader.field(Int64.self),
            entityID: try reader.field(Int64.self), setMask: try reader.field(Int32.self),
            clearMask: try reader.field(Int32.self), isDeltaKnown: try reader.field(UInt8.self) != 0,
            createdAt: Self.unixTime(try reader.field(Int64.self)),
            writtenAt: Self.unixTime(try reader.field(Int64.self)))
        guard reader.isAtEnd else { throw Self.nonsense }
        return event
    }

    /// An infinite timestamp stays the largest or smallest number.
    private static func unixTime(_ microseconds: Int64) -> Int64 {
        guard microseconds != .min, microseconds != .max else { return microseconds }
        let (sum, overflow) = microseconds.addingReportingOverflow(epochOffset)
        return overflow ? .max : sum
    }

    private static let nonsense = PostgresError(
        disposition: .stop, message: "the outbox does not have the expected columns")

    private struct Reader {
        let bytes: UnsafeRawBufferPointer
        var offset = 0

        var isAtEnd: Bool { offset == bytes.count }

        mutating func integer<Value: FixedWidthInteger>(_: Value.Type) throws(PostgresError) -> Value {
            let size = MemoryLayout<Value>.size
            guard bytes.count - offset >= size else { throw EventDecoder.nonsense }
            defer { offset += size }
            return Value(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Value.self))
        }

        /// A length, which must be the type's, and the value.
        mutating func field<Value: FixedWidthInteger>(_ type: Value.Type) throws(PostgresError) -> Value {
            guard try integer(Int32.self) == Int32(MemoryLayout<Value>.size) else { throw EventDecoder.nonsense }
            return try integer(type)
        }
    }
}
