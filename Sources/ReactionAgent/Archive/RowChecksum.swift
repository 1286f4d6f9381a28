/// Rows and the sum of their hashes, in whatever order: of each row's line the first 64 bits of its SHA-256. PostgreSQL computes the
/// same over a table (`reactions._archived_columns`).
struct RowChecksum: Equatable, Sendable {
    private(set) var rows: Int64
    private(set) var sum: Int128

    init(rows: Int64 = 0, sum: Int128 = 0) {
        self.rows = rows
        self.sum = sum
    }

    init?(rows: Int64, text: String) {
        guard let sum = Int128(text) else { return nil }
        self.init(rows: rows, sum: sum)
    }

    /// - Parameter line: a row as it is in a file, without its line feed.
    mutating func add(_ line: UnsafeRawBufferPointer, _ digest: SHA256) throws(ArchiveProblem) {
        digest.update(line)
        let hash = try digest.finish().prefix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        rows += 1
        sum += Int128(Int64(bitPattern: hash))
    }

    static func + (left: RowChecksum, right: RowChecksum) -> RowChecksum {
        RowChecksum(rows: left.rows + right.rows, sum: left.sum + right.sum)
    }

    static func - (left: RowChecksum, right: RowChecksum) -> RowChecksum {
        RowChecksum(rows: left.rows - right.rows, sum: left.sum - right.sum)
    }
}
