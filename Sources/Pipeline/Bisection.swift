/// Sends a chunk in the fewest pieces of which none holds a refused event.
///
/// The pieces depend only on the chunk's length and on the parked positions: a piece that holds a parked event was refused, so it left
/// nothing behind, and after a crash the same halves are made again. Can be at work with any number of refused events.
public struct Bisection: Sendable {
    /// What to do after a piece was refused.
    public enum Refusal: Equatable, Sendable {
        /// Its halves come next.
        case halved
        /// It was a single event: park the one at this position.
        case found(Int)
    }

    private var parked: Set<Int>
    /// The next piece last.
    private var pieces: [Range<Int>]

    public init(count: Int, parked: Set<Int>) {
        self.parked = parked
        self.pieces = count > 0 ? [0..<count] : []
    }

    /// The next piece to insert, in version order; nil when all are in.
    public mutating func next() -> Range<Int>? {
        while let piece = pieces.popLast() {
            guard parked.contains(where: piece.contains) else { return piece }
            if piece.count > 1 { halve(piece) }
        }
        return nil
    }

    public mutating func refused(_ piece: Range<Int>) -> Refusal {
        guard piece.count > 1 else {
            parked.insert(piece.lowerBound)
            return .found(piece.lowerBound)
        }
        halve(piece)
        return .halved
    }

    private mutating func halve(_ piece: Range<Int>) {
        let middle = piece.lowerBound + piece.count / 2
        pieces.append(middle..<piece.upperBound)
        pieces.append(piece.lowerBound..<middle)
    }
}

/// Counts refusals of the same content with the same code: only the third in a row, on the third connection, is believed.
public struct RefusalCount: Sendable {
    public static let believed = 3

    private var code = 0
    private var count = 0

    public init() {}

    /// Whether this refusal is to be believed.
    public mutating func refused(code: Int) -> Bool {
        count = code == self.code ? count + 1 : 1
        self.code = code
        return count >= Self.believed
    }

    public mutating func accepted() {
        count = 0
    }
}
