/// Reads a stretch of bytes from left to right. Never past its end, whatever the bytes are.
public struct ByteCursor {
    private let bytes: [UInt8]
    private var position: Int
    private let end: Int

    public init(_ bytes: [UInt8], in range: Range<Int>) {
        let range = range.clamped(to: bytes.indices)
        self.bytes = bytes
        self.position = range.lowerBound
        self.end = range.upperBound
    }

    public init(_ bytes: [UInt8]) {
        self.init(bytes, in: bytes.indices)
    }

    public var isAtEnd: Bool { position >= end }

    /// What is left, read in place.
    func withRest<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        bytes.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[min(position, end)..<end])) }
    }

    public mutating func next() -> UInt8? {
        guard position < end else { return nil }
        defer { position += 1 }
        return bytes[position]
    }

    /// Steps over `byte` if it is the next one.
    public mutating func skip(_ byte: UInt8) -> Bool {
        guard position < end, bytes[position] == byte else { return false }
        position += 1
        return true
    }

    /// The bytes up to `byte`, or up to the end; steps over `byte`.
    public mutating func take(upTo byte: UInt8) -> ArraySlice<UInt8> {
        let start = position
        while position < end, bytes[position] != byte { position += 1 }
        let taken = bytes[start..<position]
        if position < end { position += 1 }
        return taken
    }

    /// One or more decimal digits whose number fits; nil leaves the cursor anywhere.
    public mutating func decimal() -> Int64? {
        guard let first = next(), let start = Self.digit(first) else { return nil }
        var number = start
        while position < end, let digit = Self.digit(bytes[position]) {
            let (tenfold, overflows) = number.multipliedReportingOverflow(by: 10)
            let (sum, carries) = tenfold.addingReportingOverflow(digit)
            guard !overflows, !carries else { return nil }
            number = sum
            position += 1
        }
        return number
    }

    private static func digit(_ byte: UInt8) -> Int64? {
        let digit = byte &- UInt8(ascii: "0")
        return digit < 10 ? Int64(digit) : nil
    }
}
