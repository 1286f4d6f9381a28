public import ReactionModel

/// What a table holds of a chunk.
public enum Presence: Equatable, Sendable {
    case absent
    case complete
    /// Fewer rows.
    case partial
    /// More rows, or others.
    case surplus

    public init(found: Tally, expected: Tally) {
        self =
            if found.rows == expected.rows, found.checksum == expected.checksum, !found.isDoubled {
                .complete
            } else if found.rows == 0 {
                .absent
            } else if found.rows < expected.rows {
                .partial
            } else {
                .surplus
            }
    }
}

/// Queries and commands about the rows of one chunk.
///
/// Batches are the partitioning column, so ClickHouse keeps their range for each part of a table and reads only parts that may hold the
/// batch: none, for a batch that was never sent.
public struct ChunkQuery: Equatable, Sendable {
    public let batch: BatchNumber
    /// Positions of the chunk's events in the batch. Pieces of the chunk are named by positions within.
    public let parts: Range<Int64>

    public init(batch: BatchNumber, part: Int32, eventCount: Int) {
        self.batch = batch
        let first = Int64(part)
        self.parts = first..<first + Int64(Int32(clamping: max(eventCount, 1)))
    }

    private var condition: String {
        "batch = \(batch.rawValue) AND part >= \(parts.lowerBound) AND part < \(parts.upperBound)"
    }

    /// A row for each table: its name, the count of the chunk's rows, the sum of their checksum column.
    ///
    /// Of a cluster, each row counted once however often it is there, then whether any is there twice and whether any is of a later
    /// part: one shard's rows twice and another's not at all could otherwise pass for the chunk.
    public func tallies(on cluster: MirrorCluster?) -> String {
        MirrorTable.allCases.map { table in
            guard cluster != nil else {
                return """
                    SELECT '\(table.rawValue)', count(), sum(\(table.checksumColumn)) FROM \(table.rawValue) WHERE \(condition)
                    """
            }
            return """
                SELECT '\(table.rawValue)', count(), sum(checksum), sum(copies) > count(), max(lastPart) > \(parts.lowerBound) FROM \
                (SELECT \(table.checksumColumn) AS checksum, count() AS copies, max(part) AS lastPart FROM \(table.rawValue) \
                WHERE \(condition) GROUP BY \(table.distinguishing))
                """
        }.joined(separator: "\nUNION ALL ")
    }

    /// The same for every batch of a range: a row for each table and batch, with the batch after the table's name.
    public static func tallies(of batches: ClosedRange<BatchNumber>) -> String {
        MirrorTable.allCases.map { table in
            """
            SELECT '\(table.rawValue)', batch, count(), sum(\(table.checksumColumn)) FROM \(table.rawValue) \
            WHERE batch BETWEEN \(batches.lowerBound.rawValue) AND \(batches.upperBound.rawValue) \
            AND part != \(MirrorTable.blankPart) GROUP BY batch
            """
        }.joined(separator: "\nUNION ALL ")
    }

    /// - Parameter rows: the answer to `tallies(of:)`; nil if it is anything else.
    public static func talliesByBatch(_ rows: [[String]]) -> [BatchNumber: MirroredRows]? {
        var found: [BatchNumber: MirroredRows] = [:]
        for row in rows {
            guard let table = row.first.flatMap(MirrorTable.init(rawValue:)),
                let batch = row.dropFirst().first.flatMap({ Int64($0) }), let tally = tally(row.dropFirst(2))
            else { return nil }
            found[BatchNumber(rawValue: batch), default: MirroredRows()][table] = tally
        }
        return found
    }

    /// The same for one table, each row counted once however often it is there.
    public func distinctTally(_ table: MirrorTable) -> String {
        """
        SELECT count(), sum(checksum) FROM \
        (SELECT DISTINCT \(table.distinguishing), \(table.checksumColumn) AS checksum FROM \(table.rawValue) WHERE \(condition))
        """
    }

    /// - Parameter columns: a count and a sum; nil if they are anything else.
    public static func tally(_ columns: some Collection<String>) -> Tally? {
        guard columns.count == 2, let rows = columns.first.flatMap({ Int64($0) }),
            let checksum = columns.dropFirst().first.flatMap({ Int64($0) })
        else { return nil }
        return Tally(rows: rows, checksum: checksum)
    }

    /// - Parameter rows: the answer to `tallies(on:)`; nil if it is anything else.
    public static func tallies(_ rows: [[String]]) -> [MirrorTable: Tally]? {
        var tallies: [MirrorTable: Tally] = [:]
        for row in rows {
            guard let table = row.first.flatMap(MirrorTable.init(rawValue:)),
                var tally = tally(row.dropFirst().prefix(2)), row.count == 3 || row.count == 5
            else { return nil }
            if row.count == 5 { (tally.isDoubled, tally.isDivided) = (row[3] != "0", row[4] != "0") }
            tallies[table] = tally
        }
        return tallies.count == MirrorTable.allCases.count ? tallies : nil
    }

    public var partition: Int64 { batch.rawValue / MirrorTable.batchesPerPartition }

    /// Merges rows that are there twice, unless a merge of the partition is at work already.
    public func optimize(_ table: MirrorTable, on cluster: MirrorCluster?, database: String) -> String {
        table.optimize(cluster, database: database, partition: partition)
    }

    /// Takes back the rows of a chunk that another table has refused.
    public func delete(from table: MirrorTable, on cluster: MirrorCluster?, database: String) -> String {
        "ALTER TABLE \(table.target(cluster, database: database)) DELETE WHERE \(condition)"
    }

    /// The number of deletions that are still at work on the table.
    public static func deletionsAtWork(on table: MirrorTable, _ cluster: MirrorCluster?, database: String) -> String {
        "SELECT count() FROM \(table.about("system.mutations", cluster, database: database)) AND is_done = 0"
    }

    /// The same for every attempt to insert the chunk, whoever makes it: the server refuses a query while another one with its id is
    /// running (code 216), so two attempts never overlap. Unique to the database, since ids are the user's.
    public func queryID(_ table: MirrorTable, database: String) -> String {
        "reactiond:\(database):\(table.rawValue):\(batch.rawValue):\(parts.lowerBound)"
    }

    /// The same for every attempt to insert the same rows.
    public func token(_ table: MirrorTable) -> String {
        "\(table.rawValue):\(batch.rawValue):\(parts.lowerBound):\(parts.upperBound)"
    }
}

extension MirrorTable {
    /// Rows that agree in these are one row that is there twice.
    fileprivate var distinguishing: String {
        (key.filter { $0 != checksumColumn } + [checksumColumn]).joined(separator: ", ")
    }
}
