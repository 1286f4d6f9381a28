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
    /// Of a record, before its flags.
    public static let positionWidth = 19

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
        let list = bytes.withUnsafeBytes { bytes -> ReactionList? in
            guard let list = PackedList(bytes, nonce: nonce), list.isWhole else { return nil }
            return ReactionList(
                nonce: nonce, floor: list.floor,
                reactors: (0..<list.count).map { Reactor(position: list.position($0), flags: list.flags($0)) })
        }
        guard let list else { return nil }
        self = list
    }

    /// - Parameter allFlags: the bits of all kinds of the type, which decide the width of a record.
    public func packed(allFlags: Int32) -> [UInt8] {
        let flagsWidth = Self.flagsWidth(allFlags: allFlags)
        let width = Self.width(reactors: reactors.count, allFlags: allFlags)
        // Room for the whole word in which the last record's flags are written.
        return [UInt8](unsafeUninitializedCapacity: width &+ 4) { buffer, count in
            let bytes = UnsafeMutableRawBufferPointer(buffer)
            bytes.storeBytes(of: Self.format, as: UInt8.self)
            bytes.storeBytes(of: UInt8(truncatingIfNeeded: flagsWidth), toByteOffset: 1, as: UInt8.self)
            bytes.store(Self.packedNonce(nonce) ?? 0, at: 2)
            bytes.store(floor ?? Self.bottom, at: 10)
            var start = Self.headerWidth
            for reactor in reactors {
                bytes.store(reactor.position, at: start)
                start &+= Self.positionWidth
                bytes.store(UInt32(bitPattern: reactor.flags) << UInt32(32 &- 8 &* flagsWidth), at: start)
                start &+= flagsWidth
            }
            count = width
        }
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

/// Safe because: whoever writes has room for what is written, a record and four bytes more.
extension UnsafeMutableRawBufferPointer {
    /// The highest byte first.
    fileprivate func store(_ number: some FixedWidthInteger & BitwiseCopyable, at offset: Int) {
        storeBytes(of: number.bigEndian, toByteOffset: offset, as: type(of: number.bigEndian))
    }

    /// In the order of positions: a user's number with its sign turned. The version's eighth byte is the time's first.
    fileprivate func store(_ position: ReactionPosition, at offset: Int) {
        store(UInt64(bitPattern: position.version.rawValue) << 8, at: offset)
        store(position.time, at: offset &+ 7)
        store(UInt64(bitPattern: position.userID) ^ 1 << 63, at: offset &+ 11)
    }
}
