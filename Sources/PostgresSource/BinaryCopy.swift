/// Finds the header that precedes the first row of `COPY … TO STDOUT (FORMAT binary)`.
struct BinaryCopyHeader {
    private static let signature: [UInt8] = Array("PGCOPY\n".utf8) + [0xff, 0x0d, 0x0a, 0x00]
    private var isBehind = false

    /// Passes the header if it has not come yet. False if there is nothing after it.
    mutating func precedesRow(in row: inout BinaryCopyRow) throws(PostgresError) -> Bool {
        guard !isBehind else { return true }
        for byte in Self.signature {
            guard try row.integer(UInt8.self) == byte else { throw BinaryCopyRow.nonsense }
        }
        _ = try row.integer(Int32.self)
        guard try row.integer(Int32.self) == 0 else { throw BinaryCopyRow.nonsense }
        isBehind = true
        return !row.isAtEnd
    }
}

/// Reads one row as libpq hands it over, in place: its number of fields (-1 in the trailer), and for each a length (-1 for NULL) and
/// the value.
struct BinaryCopyRow {
    let bytes: UnsafeRawBufferPointer
    private(set) var offset = 0

    static let nonsense = PostgresError(
        disposition: .stop, message: "the rows do not have the expected columns")

    init(bytes: UnsafeRawBufferPointer) {
        self.bytes = bytes
    }

    var isAtEnd: Bool { offset == bytes.count }

    mutating func integer<Value: FixedWidthInteger>(_: Value.Type) throws(PostgresError) -> Value {
        let size = MemoryLayout<Value>.size
        guard bytes.count - offset >= size else { throw Self.nonsense }
        defer { offset += size }
        return Value(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Value.self))
    }

    /// A length, which must be the type's, and the value.
    mutating func field<Value: FixedWidthInteger>(_ type: Value.Type) throws(PostgresError) -> Value {
        guard try integer(Int32.self) == Int32(MemoryLayout<Value>.size) else { throw Self.nonsense }
        return try integer(type)
    }

    /// A smallint, integer or bigint; nil for NULL.
    mutating func anyInteger() throws(PostgresError) -> Int64? {
        switch try integer(Int32.self) {
        case -1: nil
        case 2: Int64(try integer(Int16.self))
        case 4: Int64(try integer(Int32.self))
        case 8: try integer(Int64.self)
        default: throw Self.nonsense
        }
    }

    /// The bytes of a text or of an enum's label; nil for NULL.
    mutating func text() throws(PostgresError) -> UnsafeRawBufferPointer? {
        let count = Int(try integer(Int32.self))
        if count == -1 { return nil }
        guard count >= 0, bytes.count - offset >= count else { throw Self.nonsense }
        defer { offset += count }
        return UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }
}

/// PostgreSQL counts microseconds from 2000-01-01, the agent from 1970-01-01.
enum PostgresTime {
    private static let epochOffset: Int64 = 946_684_800_000_000

    /// An infinite timestamp stays the largest or smallest number.
    static func unixTime(_ microseconds: Int64) -> Int64 {
        guard microseconds != .min, microseconds != .max else { return microseconds }
        let (sum, overflow) = microseconds.addingReportingOverflow(epochOffset)
        return overflow ? .max : sum
    }
}
