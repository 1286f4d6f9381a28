/// Rows as `COPY … (FORMAT csv)` writes them, each with its line feed.
public struct CopiedRows: Sendable {
    public var bytes: [UInt8] = []
    public var count: Int64 = 0

    public init() {}
}

extension PostgresConnection {
    /// The next rows of a COPY that has begun: at most `limit`, about `size` bytes. Fewer than asked, or none, at its end only.
    func copiedRows(limit: Int64, size: Int = 1 << 20) throws(PostgresError) -> (rows: CopiedRows, isLast: Bool) {
        var rows = CopiedRows()
        rows.bytes.reserveCapacity(size + size / 4)
        let isLast = try continueCopy { line throws(PostgresError) in
            rows.bytes.append(contentsOf: line)
            rows.count += 1
            return rows.count < limit && rows.bytes.count < size
        }
        return (rows, isLast)
    }
}
