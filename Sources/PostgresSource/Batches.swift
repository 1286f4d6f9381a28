public import Pipeline
public import ReactionModel

/// Forming, reading and finishing batches. What a batch is: docs/internals.md, "Outbox and batches".
extension PostgresSource {
    public struct Look: Sendable {
        /// Nil if nothing became visible. May be without events, to raise the floor.
        public var batch: Batch?
        /// The xmin of the look's snapshot.
        public var oldestRunning: UInt64
    }

    /// Forms a batch of what became visible since the last one, if anything did; its row is durable on return.
    public func look() throws(PostgresError) -> Look {
        let session = try session
        let news = try glance(session)
        guard news.hasEvents || news.canRaiseFloor else {
            return Look(batch: nil, oldestRunning: news.oldestRunning)
        }
        // Two statements in this order: every transaction that drew a version up to `sequenceSeen` has an id below ours, and ours has
        // completed when the snapshot is taken.
        let before = try session.execute("\(Self.sequenceSeen); SELECT pg_current_xact_id()")
        guard let sequence = try before.first?.required(0, 0, as: Int64.self) else { return Look(oldestRunning: 0) }
        let batch = try transaction("ISOLATION LEVEL REPEATABLE READ") { session throws(PostgresError) in
            try form(session, sequenceSeen: sequence)
        }
        if batch.events == 0 { lastEmptyBatch = .now }
        return Look(batch: batch, oldestRunning: news.oldestRunning)
    }

    /// The next events of the batch in version order, at most its chunk size; none at its end.
    public func events(of batch: Batch, after version: Version) throws(PostgresError) -> [Event] {
        var decoder = EventDecoder()
        try session.copy(
            """
            COPY (SELECT \(EventDecoder.columns) FROM reactions._outbox
                  WHERE \(rows(since: batch.previous, until: batch.snapshot)) AND version > \(version.rawValue)
                  ORDER BY version LIMIT \(batch.chunkEvents)) TO STDOUT (FORMAT binary)
            """
        ) { row throws(PostgresError) in
            try decoder.decode(row)
        }
        return decoder.events.firstChunk()
    }

    /// ClickHouse has confirmed the whole batch. Not durable at once, but before `finish` is: a batch without the mark is delivered again.
    public func confirm(_ number: BatchNumber) throws(PostgresError) {
        _ = try session.execute(
            """
            SET LOCAL synchronous_commit = off;
            UPDATE reactions._batch SET confirmed_at = clock_timestamp() WHERE batch = \(number.rawValue)
            """)
    }

    /// The batch is in ClickHouse and in Redis: marks it and raises the floor as far as that shows.
    ///
    /// Not durable at once: after a crash the batch is delivered again, which changes nothing.
    public func finish(_ number: BatchNumber, lag: LagHistogram) throws(PostgresError) {
        try transaction("") { session throws(PostgresError) in
            _ = try session.execute("SET LOCAL synchronous_commit = off")
            _ = try session.query(
                """
                UPDATE reactions._batch SET confirmed_at = coalesce(confirmed_at, clock_timestamp()),
                       finished_at = clock_timestamp(), lag_histogram = $2::integer[]
                WHERE batch = $1::bigint
                """,
                ["\(number.rawValue)", "{\(lag.counts.map(String.init).joined(separator: ","))}"])
            _ = try session.query(
                """
                UPDATE reactions._mirror SET floor = greatest(floor, (
                    SELECT max(b.batch >> 44 << 44 | b.sequence_seen) FROM reactions._batch b
                    WHERE b.finished_at IS NOT NULL AND b.sequence_seen > 0 AND pg_snapshot_xmax(b.snapshot) <= (
                        SELECT pg_snapshot_xmin(n.snapshot) FROM reactions._batch n
                        WHERE n.finished_at IS NOT NULL ORDER BY n.batch DESC LIMIT 1)))
                """)
        }
    }

    /// Batches that ClickHouse confirmed before the time, in order, finished or not, with what is needed to read them again.
    /// - Parameter time: microseconds since 1970-01-01 UTC.
    public func batches(confirmedBefore time: Int64) throws(PostgresError) -> [Batch] {
        try batches(where: "confirmed_at < to_timestamp(\(time / 1_000_000))").filter { $0.events > 0 }
    }

    func unfinishedBatches() throws(PostgresError) -> [Batch] {
        try batches(where: "finished_at IS NULL")
    }

    func readNewest() throws(PostgresError) -> Newest? {
        let result = try session.query(
            "SELECT batch, snapshot, sequence_seen FROM reactions._batch ORDER BY batch DESC LIMIT 1")
        guard !result.rows.isEmpty else { return nil }
        return Newest(
            number: BatchNumber(rawValue: try result.required(0, 0)), snapshot: try snapshot(result, 0, 1),
            sequenceSeen: try result.required(0, 2))
    }

    private static let sequenceSeen = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM reactions._version"

    private struct News {
        var hasEvents: Bool
        var canRaiseFloor: Bool
        var oldestRunning: UInt64
    }

    /// One statement, so one snapshot. An empty batch is worth its row if versions were drawn since the last one, or if the last one's
    /// transactions have all ended since: either way the floor gets nearer to the sequence.
    private func glance(_ session: PostgresConnection) throws(PostgresError) -> News {
        guard let newest else { return News(hasEvents: true, canRaiseFloor: true, oldestRunning: 0) }
        let result = try session.query(
            """
            SELECT EXISTS (SELECT FROM reactions._outbox WHERE \(newRows(since: newest.snapshot))),
                   pg_snapshot_xmin(pg_current_snapshot()),
                   NOT EXISTS (SELECT FROM reactions._batch WHERE finished_at IS NULL)
                   AND ((\(Self.sequenceSeen)) > \(newest.sequenceSeen)
                        OR (pg_snapshot_xmin(pg_current_snapshot()) >= '\(newest.snapshot.xmax)'::xid8
                            AND (SELECT floor FROM reactions._mirror) < \(newest.floor)))
            """)
        let isDue = lastEmptyBatch.map { .now - $0 > .seconds(1) } ?? true
        return News(
            hasEvents: result.isTrue(0, 0), canRaiseFloor: isDue && result.isTrue(0, 2),
            oldestRunning: try result.required(0, 1))
    }

    private func form(_ session: PostgresConnection, sequenceSeen: Int64) throws(PostgresError) -> Batch {
        var sequenceSeen = sequenceSeen
        var end = try snapshot(session.query("SELECT pg_current_snapshot()"), 0, 0)
        let catalog = try catalog(session)
        var tally = try self.tally(session, until: end)
        if tally.events > limits.batchEvents, let cut = try cutPoint(session, until: end) {
            end = end.cut(at: cut)
            sequenceSeen = 0
            tally = try self.tally(session, until: end)
        }
        let last = newest.map { $0.number.rawValue & Version.maximumSequence } ?? 0
        let batch = Batch(
            number: BatchNumber(rawValue: generation << Version.sequenceBits | (last + 1)), previous: newest?.snapshot,
            snapshot: end, events: tally.events, checksum: tally.checksum,
            chunkEvents: tally.events > limits.behind ? limits.chunkEventsBehind : limits.chunkEvents,
            typeIDs: tally.typeIDs, catalog: catalog)
        _ = try session.query(
            """
            INSERT INTO reactions._batch (batch, snapshot, sequence_seen, chunk_events, events, checksum)
            VALUES ($1::bigint, $2::pg_snapshot, $3::bigint, $4::integer, $5::bigint, $6::bigint)
            """,
            [
                "\(batch.number.rawValue)", end.text, "\(sequenceSeen)", "\(batch.chunkEvents)", "\(batch.events)",
                "\(batch.checksum)",
            ])
        newest = Newest(number: batch.number, snapshot: end, sequenceSeen: sequenceSeen)
        return batch
    }

    private func tally(
        _ session: PostgresConnection, until end: Snapshot
    ) throws(PostgresError) -> (events: Int64, checksum: Int64, typeIDs: [Int16]) {
        let result = try session.query(
            """
            SELECT count(*), coalesce(sum(version) % 9223372036854775808, 0)::bigint, array_agg(DISTINCT type_id)
            FROM reactions._outbox WHERE \(rows(since: newest?.snapshot, until: end))
            """)
        return (try result.required(0, 0), try result.required(0, 1), result.numbers(0, 2))
    }

    /// The transaction id below which about `batchEvents` events lie, above the lowest one: a transaction's events stay together.
    private func cutPoint(_ session: PostgresConnection, until end: Snapshot) throws(PostgresError) -> UInt64? {
        let range = rows(since: newest?.snapshot, until: end)
        let result = try session.query(
            """
            SELECT xid FROM reactions._outbox WHERE \(range) AND version >= \(baseVersion.rawValue)
            ORDER BY xid OFFSET \(limits.batchEvents) LIMIT 1
            """)
        guard let xid = result.value(0, 0, as: UInt64.self) else { return nil }
        return max(xid, (newest?.snapshot.xmax ?? 0) + 1)
    }

    /// Of the kept rows, those whose predecessor is kept too (or that are the cluster's first).
    private func batches(where condition: String) throws(PostgresError) -> [Batch] {
        let session = try session
        let result = try session.query(
            """
            SELECT batch, previous, snapshot, events, checksum, chunk_events FROM (
                SELECT *, lag(snapshot) OVER (ORDER BY batch) AS previous FROM reactions._batch) kept
            WHERE \(condition) AND (previous IS NOT NULL OR batch & \(Version.maximumSequence) = 1) ORDER BY batch
            """)
        let catalog = try catalog(session)
        var batches: [Batch] = []
        for row in result.rows {
            batches.append(
                Batch(
                    number: BatchNumber(rawValue: try result.required(row, 0)),
                    previous: result.text(row, 1) == nil ? nil : try snapshot(result, row, 1),
                    snapshot: try snapshot(result, row, 2), events: try result.required(row, 3),
                    checksum: try result.required(row, 4), chunkEvents: try result.required(row, 5),
                    // Not stored, and needed only to raise epochs: every type is a safe answer.
                    typeIDs: catalog.keys.sorted(), catalog: catalog))
        }
        return batches
    }

    /// The rows of a batch. With no batch before: every row, those from before a restore (whose transaction ids mean nothing here)
    /// included.
    private func rows(since previous: Snapshot?, until end: Snapshot) -> String {
        let visible = "pg_visible_in_snapshot(xid, '\(end.text)'::pg_snapshot)"
        guard let previous else { return "(version < \(baseVersion.rawValue) OR \(visible))" }
        return "\(newRows(since: previous)) AND xid < '\(end.xmax)'::xid8 AND \(visible)"
    }

    func newRows(since previous: Snapshot) -> String {
        let known = previous.inProgress.map(String.init).joined(separator: ",")
        let late = known.isEmpty ? "" : " OR xid = ANY ('{\(known)}'::xid8[])"
        return "version >= \(baseVersion.rawValue) AND (xid >= '\(previous.xmax)'::xid8\(late))"
    }

    func snapshot(_ result: PostgresResult, _ row: Int32, _ column: Int32) throws(PostgresError) -> Snapshot {
        guard let snapshot = Snapshot(try result.required(row, column, as: String.self)) else {
            throw PostgresError(disposition: .stop, message: "a snapshot cannot be read")
        }
        return snapshot
    }
}

extension PostgresSource.Newest {
    /// The floor this batch brings once its transactions have ended.
    var floor: Int64 { number.rawValue & ~Version.maximumSequence | sequenceSeen }
}

extension Version {
    static let maximumSequence: Int64 = 1 << sequenceBits - 1
}
