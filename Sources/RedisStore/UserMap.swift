public import ReactionModel

/// How much of the user a map holds.
public enum UserMapState: UInt8, Sendable {
    /// `n`: just started; the size of the user is unknown.
    case new = 0x6e
    /// `c`: an absent field is none.
    case complete = 0x63
    /// `p`: the user has more than the limit; an absent field is unknown.
    case partial = 0x70
}

/// The marker of a user map, field `_`: `<stamp>:<nonce>:<floor>:<state>:<filled>:<touched>:<lease>`.
public struct UserMapMarker: Equatable, Sendable {
    public static let field: StaticString = "_"

    public var nonce: [UInt8]
    public var state: UserMapState
    /// Unix seconds by Redis's clock.
    public var touchedAt: Int64

    /// Nil if the marker cannot be read or was made under another stamp: the map is absent.
    public init?(_ cursor: ByteCursor, stamp: Stamp) {
        var cursor = cursor
        let colon = UInt8(ascii: ":")
        guard cursor.take(upTo: colon).elementsEqual(stamp.digits) else { return nil }
        let nonce = cursor.take(upTo: colon)
        guard nonce.count == 16, cursor.decimal() != nil, cursor.skip(colon),
            let state = cursor.next().flatMap(UserMapState.init), cursor.skip(colon),
            cursor.decimal() != nil, cursor.skip(colon),
            let touchedAt = cursor.decimal(), cursor.skip(colon),
            cursor.decimal() != nil, cursor.isAtEnd
        else { return nil }
        self.nonce = Array(nonce)
        self.state = state
        self.touchedAt = touchedAt
    }
}

/// Reading of the fields of a user map: `<flags>` followed by marks, or `?…` for unknown.
public enum UserMapField {
    /// The entity that a field is of, or nil if it is another field.
    public static func entityID(_ text: Slice<UnsafeRawBufferPointer>) -> Int64? {
        let isNegative = text.first == UInt8(ascii: "-")
        var id: Int64 = 0
        let digits = isNegative ? text.dropFirst() : text
        for byte in digits {
            let digit = byte &- UInt8(ascii: "0")
            guard digit < 10 else { return nil }
            let (tenfold, overflows) = id.multipliedReportingOverflow(by: 10)
            // Downwards if negative, since the lowest number has no counterpart.
            let (sum, carries) =
                isNegative
                ? tenfold.subtractingReportingOverflow(Int64(digit)) : tenfold.addingReportingOverflow(Int64(digit))
            guard !overflows, !carries else { return nil }
            id = sum
        }
        return digits.isEmpty ? nil : id
    }

    /// The flags of a field, or nil if they are unknown or cannot be read. Read in place: a page has hundreds of fields.
    public static func flags(_ text: Slice<UnsafeRawBufferPointer>) -> Int32? {
        var flags: Int32 = 0
        for (offset, byte) in text.enumerated() {
            let digit = byte &- UInt8(ascii: "0")
            guard digit < 10 else { return byte == UInt8(ascii: ":") && offset > 0 ? flags : nil }
            let (tenfold, overflows) = flags.multipliedReportingOverflow(by: 10)
            let (sum, carries) = tenfold.addingReportingOverflow(Int32(digit))
            guard !overflows, !carries else { return nil }
            flags = sum
        }
        return text.isEmpty ? nil : flags
    }
}

/// 16 random hexadecimal digits that name one life of a user map.
public func makeNonce() -> [UInt8] {
    let digits = Array("0123456789abcdef".utf8)
    let number = UInt64.random(in: .min ... .max)
    return stride(from: 60, through: 0, by: -4).map { digits[Int(number >> UInt64($0) & 15)] }
}
