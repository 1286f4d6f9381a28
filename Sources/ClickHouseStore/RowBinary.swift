/// Values in ClickHouse's RowBinary format, appended to one buffer.
struct RowBinary {
    private(set) var bytes: [UInt8] = []

    mutating func reserve(_ count: Int) {
        bytes.reserveCapacity(count)
    }

    mutating func append(_ number: some FixedWidthInteger) {
        withUnsafeBytes(of: number.littleEndian) { bytes.append(contentsOf: $0) }
    }

    /// Bytes that are encoded already.
    mutating func append(encoded: [UInt8]) {
        bytes.append(contentsOf: encoded)
    }

    /// A String: its length in base 128, lowest digits first, and its bytes.
    static func string(_ text: String) -> [UInt8] {
        var length = text.utf8.count
        var encoded: [UInt8] = []
        while length >= 0x80 {
            encoded.append(UInt8(truncatingIfNeeded: length) | 0x80)
            length >>= 7
        }
        encoded.append(UInt8(truncatingIfNeeded: length))
        encoded.append(contentsOf: text.utf8)
        return encoded
    }

    /// A time in the range of its type; what lies outside becomes the nearest bound (PostgreSQL's infinity, too).
    mutating func append(microseconds: Int64, as form: MirrorLayout.TimeForm) {
        switch form {
        case .seconds:
            // 1970-01-01 00:00:00 and 2105-12-31 23:59:59, the last year that old servers can print.
            append(UInt32(clamping: min(microseconds / 1_000_000, 4_291_747_199)))
        case .microseconds:
            // 1900-01-01 00:00:00 and 2299-12-31 23:59:59.999999.
            append(min(max(microseconds, -2_208_988_800_000_000), 10_413_791_999_999_999))
        }
    }
}
