/// Cuts CSV into its lines. A line feed within quotes belongs to a value; quotes within a value are doubled, so that an odd number of
/// them has come before whatever is within quotes.
struct LineSplitter {
    private static let quote = UInt8(ascii: "\"")
    private static let lineFeed = UInt8(ascii: "\n")

    private var beginning: [UInt8] = []
    private var isQuoted = false

    /// Whether a line has begun that has not ended.
    var isWithinLine: Bool { !beginning.isEmpty }

    /// - Parameter line: gets each line that ends in these bytes, without its line feed.
    mutating func split(
        _ bytes: UnsafeRawBufferPointer, _ line: (UnsafeRawBufferPointer) throws(ArchiveProblem) -> Void
    ) throws(ArchiveProblem) {
        var start = 0
        for index in bytes.indices {
            if bytes[index] == Self.quote {
                isQuoted.toggle()
            } else if bytes[index] == Self.lineFeed, !isQuoted {
                let piece = UnsafeRawBufferPointer(rebasing: bytes[start..<index])
                start = index + 1
                if beginning.isEmpty {
                    try line(piece)
                } else {
                    beginning.append(contentsOf: piece)
                    let whole = beginning
                    beginning.removeAll(keepingCapacity: true)
                    try whole.span.bytes.withUnsafeBytes { bytes throws(ArchiveProblem) in try line(bytes) }
                }
            }
        }
        beginning.append(contentsOf: bytes[start...])
    }

    /// The value of a column as it is in the file: all columns before it are skipped.
    static func value(_ column: Int, of line: UnsafeRawBufferPointer) -> String {
        var isQuoted = false
        var position = 0
        var start = 0
        for index in line.indices {
            if line[index] == quote {
                isQuoted.toggle()
            } else if line[index] == UInt8(ascii: ","), !isQuoted {
                if position == column { return text(line[start..<index]) }
                position += 1
                start = index + 1
            }
        }
        return position == column ? text(line[start...]) : ""
    }

    private static func text(_ bytes: Slice<UnsafeRawBufferPointer>) -> String {
        let isQuoted = bytes.count >= 2 && bytes.first == quote
        return String(decoding: isQuoted ? bytes.dropFirst().dropLast() : bytes, as: UTF8.self)
            .replacing("\"\"", with: "\"")
    }
}
