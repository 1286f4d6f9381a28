import ReactionModel

/// Values in ClickHouse's RowBinary format, written one after the other into memory whose size was reckoned before.
///
/// Safe because: a value that does not fit into what is left of the buffer is not written. (Rows of a wrong size are refused by ClickHouse,
/// or by the tallies.)
struct RowBinary {
    private let buffer: UnsafeMutableRawBufferPointer
    private(set) var count = 0

    /// An array of at most `capacity` bytes, as `write` fills it.
    static func bytes(capacity: Int, write: (inout RowBinary) -> Void) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: capacity) { buffer, count in
            var rows = RowBinary(buffer: UnsafeMutableRawBufferPointer(buffer))
            write(&rows)
            count = rows.count
        }
    }

    private init(buffer: UnsafeMutableRawBufferPointer) {
        self.buffer = buffer
    }

    mutating func append<Number: FixedWidthInteger>(_ number: Number) {
        guard MemoryLayout<Number>.size <= buffer.count &- count else { return }
        buffer.storeBytes(of: number.littleEndian, toByteOffset: count, as: Number.self)
        count &+= MemoryLayout<Number>.size
    }

    /// Bytes that are encoded already.
    mutating func append(encoded: [UInt8]) {
        guard encoded.count <= buffer.count &- count else { return }
        encoded.withUnsafeBytes { bytes in
            UnsafeMutableRawBufferPointer(rebasing: buffer[count..<count &+ bytes.count]).copyMemory(from: bytes)
        }
        count &+= encoded.count
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
            // From 1970-01-01 00:00:00 on.
            append(ReactionPosition(version: .zero, createdAt: microseconds, userID: 0).time)
        case .microseconds:
            // 1900-01-01 00:00:00 and 2299-12-31 23:59:59.999999.
            append(min(max(microseconds, -2_208_988_800_000_000), 10_413_791_999_999_999))
        }
    }
}
