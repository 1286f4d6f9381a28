/// A backfill of a type's table as its events see it: those above its version were captured while it ran, or after.
public struct BackfillEra: Hashable, Sendable {
    /// Of the backfilled rows. Every event that was captured since is above it, every older event below.
    public var version: Version
    /// The last batch that was formed before it was certain that every backfilled row is in ClickHouse; nil as long as it is not.
    public var completeBatch: BatchNumber?
    /// Every range of the table was read and confirmed.
    public var isRead: Bool

    public init(version: Version, completeBatch: BatchNumber?, isRead: Bool) {
        self.version = version
        self.completeBatch = completeBatch
        self.isRead = isRead
    }

    /// Whether the state before an event of the batch follows from the rows at or above `version`; else only events say anything.
    public func isComplete(for batch: BatchNumber) -> Bool {
        completeBatch.map { $0 < batch } ?? false
    }
}

/// The numbers of the batches in which one reading of a table lies in ClickHouse: a batch for each range, and one for the sealing.
///
/// In the upper half of its generation's numbers, which the mirror does not reach in an age of a thousand batches a second: bit 43, then
/// 19 bits for the reading and 24 for the range. So a reading is one partition of its own, in which rows that were read twice meet,
/// and which can be dropped whole.
public struct BackfillBatches: Hashable, Sendable {
    /// Set in the numbers of these batches, clear in the mirror's.
    public static let mark: Int64 = 1 << 43
    private static let rangeBits: Int64 = 24

    private let first: Int64

    /// - Parameters:
    ///   - version: of the backfilled rows.
    ///   - number: of the reading, unique in the database.
    public init(version: Version, number: Int32) {
        first = version.generation << Version.sequenceBits | Self.mark | Int64(number) << Self.rangeBits
    }

    public func range(_ range: Int) -> BatchNumber { BatchNumber(rawValue: first | Int64(range)) }
    public var seal: BatchNumber { BatchNumber(rawValue: first | (1 << Self.rangeBits - 1)) }
}
