/// The replies of one pipeline: flat, in the order in which they came (preorder), with all texts in one array of bytes.
///
/// A reply of a thousand elements costs no allocation once the arrays have grown. Positions outside the arena read as `.missing`.
public struct ReplyArena {
    public enum Node: Equatable {
        /// The range is in `bytes`.
        case text(Range<Int>)
        case error(Range<Int>)
        case integer(Int64)
        case null
        /// Followed by its elements.
        case array(Int)
        case missing
    }

    public private(set) var bytes: [UInt8] = []
    private var nodes: [Node] = []

    public init() {}

    /// Drops the replies and keeps the memory.
    public mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
        nodes.removeAll(keepingCapacity: true)
    }

    public mutating func appendText(_ text: UnsafeRawBufferPointer, isError: Bool) {
        let start = bytes.count
        bytes.append(contentsOf: text)
        nodes.append(isError ? .error(start..<bytes.count) : .text(start..<bytes.count))
    }

    public mutating func append(_ node: Node) {
        nodes.append(node)
    }

    /// Where the next reply will be.
    public var count: Int { nodes.count }

    /// Appends a reply of another arena, with everything in it.
    public mutating func append(replyAt position: Int, of other: ReplyArena) {
        for position in position..<max(other.position(after: position), position) {
            switch other[position] {
            case .text(let range): other.withText(range) { appendText($0, isError: false) }
            case .error(let range): other.withText(range) { appendText($0, isError: true) }
            case let node: append(node)
            }
        }
    }

    private func withText(_ range: Range<Int>, _ body: (UnsafeRawBufferPointer) -> Void) {
        bytes.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[range.clamped(to: bytes.indices)])) }
    }

    public subscript(position: Int) -> Node {
        nodes.indices.contains(position) ? nodes[position] : .missing
    }

    /// The position behind the reply at `position` and everything in it.
    public func position(after position: Int) -> Int {
        var position = position
        var open = 1
        while open > 0, nodes.indices.contains(position) {
            if case .array(let count) = nodes[position] { open &+= count }
            open &-= 1
            position += 1
        }
        return position
    }

    /// Hands over every text in place; the ranges of nodes lie within.
    public func withTexts<Answer, Problem: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Problem) -> Answer
    ) throws(Problem) -> Answer {
        let result: Result<Answer, Problem> = bytes.withUnsafeBytes { texts in
            do throws(Problem) { return .success(try body(texts)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    public func cursor(_ range: Range<Int>) -> ByteCursor {
        ByteCursor(bytes, in: range)
    }

    /// The text at `position`; empty if there is none.
    public func text(at position: Int) -> ArraySlice<UInt8> {
        guard case .text(let range) = self[position] else { return [] }
        return bytes[range.clamped(to: bytes.indices)]
    }

    /// The error at `position`, or nil if the reply is no error.
    public func error(at position: Int) -> ArraySlice<UInt8>? {
        guard case .error(let range) = self[position] else { return nil }
        return bytes[range.clamped(to: bytes.indices)]
    }
}
