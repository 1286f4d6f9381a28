import ReactionModel

/// The records of a packed list.
///
/// Safe because: an index is below `count`, so that its record lies within the bytes; and 8 bytes that end with a version lie behind
/// the header's first.
struct PackedList {
    private let bytes: UnsafeRawBufferPointer
    private let width: Int
    private let flagsWidth: Int
    let count: Int
    let hasFloor: Bool

    init?(_ bytes: UnsafeRawBufferPointer, nonce: [UInt8]) {
        guard let header = ReactionList.header(bytes, nonce: nonce) else { return nil }
        self.bytes = bytes
        flagsWidth = header.flagsWidth
        hasFloor = header.hasFloor
        width = ReactionList.recordWidth(flagsWidth: flagsWidth)
        count = (bytes.count &- ReactionList.headerWidth) / width
    }

    /// Whether there is nothing behind the last record.
    var isWhole: Bool { ReactionList.headerWidth &+ count &* width == bytes.count }

    /// Nil if the list is complete.
    var floor: ReactionPosition? { hasFloor ? position(at: 10) : nil }

    func position(_ index: Int) -> ReactionPosition {
        position(at: ReactionList.headerWidth &+ index &* width)
    }

    private func position(at start: Int) -> ReactionPosition {
        let version = number(start &- 1, UInt64.self) & (1 << 56 &- 1)
        return ReactionPosition(
            version: Version(rawValue: Int64(truncatingIfNeeded: version)), time: number(start &+ 7, UInt32.self),
            userID: Int64(bitPattern: number(start &+ 11, UInt64.self) ^ 1 << 63))
    }

    func flags(_ index: Int) -> Int32 {
        let start = ReactionList.headerWidth &+ index &* width &+ 19
        return switch flagsWidth {
        case 1: Int32(bytes[start])
        case 2: Int32(number(start, UInt16.self))
        default: Int32(bitPattern: number(start, UInt32.self))
        }
    }

    /// Of the records, which are in descending order, the first below the position.
    func firstIndex(below bound: ReactionPosition) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = low &+ (high &- low) / 2
            if position(middle) < bound { high = middle } else { low = middle &+ 1 }
        }
        return low
    }

    private func number<Number: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, _: Number.Type) -> Number {
        Number(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Number.self))
    }
}
