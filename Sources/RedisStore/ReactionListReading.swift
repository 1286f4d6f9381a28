public import ReactionModel

/// A page of a packed list, read in place.
public struct ReactionListPage: Equatable, Sendable {
    /// Why there are no more reactors in the page.
    public enum End: Equatable, Sendable {
        /// It is full.
        case full
        /// The list is, and nobody else has reacted.
        case everybody
        /// The list is, and the truth knows who comes after.
        case floor
        /// Only the beginning of the list was there.
        case cut
    }

    public var reactors: [Reactor]
    public var end: End

    /// Nil if the bytes are no list, or one of another life of the entity: it is absent then.
    ///
    /// - Parameters:
    ///   - isWhole: whether the bytes are the whole list, and not only its beginning.
    ///   - bound: whom the page starts after; nil: with the newest.
    ///   - mask: of the kinds, one of which a reactor has to have.
    public init?(
        _ bytes: ArraySlice<UInt8>, isWhole: Bool, nonce: [UInt8], below bound: ReactionPosition?, mask: Int32,
        limit: Int
    ) {
        let page: ReactionListPage?? = bytes.withUnsafeBytes { bytes in
            guard let list = PackedList(bytes, nonce: nonce), !isWhole || list.isWhole else { return nil }
            return Self(list, isWhole: isWhole, below: bound, mask: mask, limit: limit)
        }
        guard let page = page ?? nil else { return nil }
        self = page
    }

    private init(_ list: PackedList, isWhole: Bool, below bound: ReactionPosition?, mask: Int32, limit: Int) {
        reactors = []
        var index = bound.map(list.firstIndex) ?? 0
        while index < list.count, reactors.count < limit {
            let flags = list.flags(index)
            if flags & mask != 0 { reactors.append(Reactor(position: list.position(index), flags: flags)) }
            index &+= 1
        }
        end =
            if reactors.count >= limit { .full } else if !isWhole { .cut } else if list.hasFloor { .floor } else {
                .everybody
            }
    }
}

/// The records of a packed list.
///
/// Safe because: an index is below `count`, so that its record lies within the bytes; and 8 bytes that end with a version lie behind
/// the header's first.
private struct PackedList {
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

    func position(_ index: Int) -> ReactionPosition {
        let start = ReactionList.headerWidth &+ index &* width
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
