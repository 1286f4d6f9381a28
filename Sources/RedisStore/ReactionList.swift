public import ReactionModel

/// Who has reacted to an entity, newest first, as one packed string of Redis.
///
/// A header of 29 bytes: the format, the width of the flags, the entity's nonce, the floor. Then for each user version (7 bytes), time (4),
/// user (8) and flags (1, 2 or 4), all of them big-endian: 20 bytes with up to eight kinds. Descending by position, one record a user, none
/// without flags.
public struct ReactionList: Equatable, Sendable {
    /// The first byte; another one is another format.
    private static let format: UInt8 = 1
    public static let headerWidth = 29
    private static let positionWidth = 19

    /// 16 hexadecimal digits, those of the entity's marker.
    public var nonce: [UInt8]
    /// Everybody at or above it is in the list, and what is below it is to be asked of ClickHouse; nil: everybody is in the list.
    public var floor: ReactionPosition?
    /// Descending by position.
    public var reactors: [Reactor]

    public init(nonce: [UInt8], floor: ReactionPosition? = nil, reactors: [Reactor] = []) {
        self.nonce = nonce
        self.floor = floor
        self.reactors = reactors
    }

    /// Nil if the bytes are no list, or one of another life of the entity: it is absent then.
    public init?(_ bytes: ArraySlice<UInt8>, nonce: [UInt8]) {
        guard let packed = Self.packedNonce(nonce) else { return nil }
        var reader = BigEndianReader(bytes)
        guard reader.take(1) == UInt64(Self.format), let width = reader.take(1), [1, 2, 4].contains(width),
            reader.take(8) == packed, let floor = reader.position()
        else { return nil }
        let recordWidth = Self.positionWidth &+ Int(width)
        guard reader.remaining.isMultiple(of: recordWidth) else { return nil }
        self.nonce = nonce
        self.floor = floor == Self.bottom ? nil : floor
        reactors = []
        reactors.reserveCapacity(reader.remaining / recordWidth)
        while let position = reader.position(), let flags = reader.take(Int(width)) {
            reactors.append(Reactor(position: position, flags: Int32(truncatingIfNeeded: flags)))
        }
    }

    /// - Parameter allFlags: the bits of all kinds of the type, which decide the width of a record.
    public func packed(allFlags: Int32) -> [UInt8] {
        let width = Self.flagsWidth(allFlags: allFlags)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.headerWidth &+ reactors.count &* (Self.positionWidth &+ width))
        bytes.append(Self.format)
        bytes.append(UInt8(width))
        bytes.append(bigEndian: Self.packedNonce(nonce) ?? 0, width: 8)
        bytes.append(floor ?? Self.bottom)
        for reactor in reactors {
            bytes.append(reactor.position)
            bytes.append(bigEndian: UInt64(UInt32(bitPattern: reactor.flags)), width: width)
        }
        return bytes
    }

    /// How many users a list of `length` bytes has that begins with `header`; nil if these are not whole records.
    public static func count(header: ArraySlice<UInt8>, length: Int) -> Int? {
        guard header.count == headerWidth, let width = header.dropFirst().first, [1, 2, 4].contains(width) else {
            return nil
        }
        let records = length &- headerWidth
        let recordWidth = recordWidth(flagsWidth: Int(width))
        return records.isMultiple(of: recordWidth) ? records / recordWidth : nil
    }

    private static func flagsWidth(allFlags: Int32) -> Int {
        allFlags < 1 << 8 ? 1 : allFlags < 1 << 16 ? 2 : 4
    }

    static func recordWidth(flagsWidth: Int) -> Int { positionWidth &+ flagsWidth }

    /// The bytes of a list that begins with as many reactors.
    public static func width(reactors: Int, allFlags: Int32) -> Int {
        headerWidth &+ reactors &* recordWidth(flagsWidth: flagsWidth(allFlags: allFlags))
    }

    /// What precedes the records, if the list is one of the nonce.
    static func header(_ bytes: UnsafeRawBufferPointer, nonce: [UInt8]) -> (flagsWidth: Int, hasFloor: Bool)? {
        guard bytes.count >= headerWidth, bytes[0] == format, [1, 2, 4].contains(bytes[1]),
            let packed = packedNonce(nonce),
            UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt64.self)) == packed
        else { return nil }
        // The lowest of all positions is zero in every byte.
        return (Int(bytes[1]), bytes[10..<headerWidth].contains { $0 != 0 })
    }

    /// Below everybody.
    private static let bottom = ReactionPosition(version: .zero, time: 0, userID: .min)

    private static func packedNonce(_ digits: [UInt8]) -> UInt64? {
        guard digits.count == 16 else { return nil }
        var number: UInt64 = 0
        for digit in digits {
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): number = number << 4 | UInt64(digit &- UInt8(ascii: "0"))
            case UInt8(ascii: "a")...UInt8(ascii: "f"): number = number << 4 | UInt64(digit &- UInt8(ascii: "a") &+ 10)
            default: return nil
            }
        }
        return number
    }
}

/// Numbers of fixed width, the highest byte first.
private struct BigEndianReader {
    private var bytes: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
    }

    var remaining: Int { bytes.count }

    mutating func take(_ width: Int) -> UInt64? {
        guard bytes.count >= width else { return nil }
        let number = bytes.prefix(width).reduce(0 as UInt64) { $0 << 8 | UInt64($1) }
        bytes = bytes.dropFirst(width)
        return number
    }

    mutating func position() -> ReactionPosition? {
        guard let version = take(7), let time = take(4), let user = take(8) else { return nil }
        return ReactionPosition(
            version: Version(rawValue: Int64(truncatingIfNeeded: version)), time: UInt32(truncatingIfNeeded: time),
            userID: Int64(bitPattern: user ^ 1 << 63))
    }
}

extension [UInt8] {
    fileprivate mutating func append(bigEndian number: UInt64, width: Int) {
        for shift in stride(from: (width &- 1) &* 8, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: number >> UInt64(shift)))
        }
    }

    /// In the order of positions: a user's number with its sign turned.
    fileprivate mutating func append(_ position: ReactionPosition) {
        append(bigEndian: UInt64(bitPattern: position.version.rawValue), width: 7)
        append(bigEndian: UInt64(position.time), width: 4)
        append(bigEndian: UInt64(bitPattern: position.userID) ^ 1 << 63, width: 8)
    }
}
