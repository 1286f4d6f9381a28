public import ClickHouseStore
public import Pipeline
public import ReactionModel

/// Forming, reading and finishing batches. What a batch is: docs/internals.md, "Outbox and batches".
extension PostgresSource {
    public struct Look: Sendable {
        /// Nil if nothing became visible. May be without events, to raise the floor.
        public var batch: Batch?
        /// Whether the batch was cut to its size, so that there is another one.
        public var hasMore = false
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
        let (batch, isCut) = try transaction("ISOLATION LEVEL REPEATABLE READ") { session throws(PostgresError) in
            try form(session, sequenceSeen: sequence)
        }
        if batch.events == 0 { lastEmptyBatch = .now }
        return Look(batch: batch, hasMore: isCut, oldestRunning: news.oldestRunning)
    }

    /// ClickHouse has confirmed the whole batch. Not durable at once, but before `finish` is: a batch without the mark is delivered again.
    /// - Parameter rows: what ClickHouse holds of it; nil if that is not known.
    public func confirm(_ number: BatchNumber, rows: MirroredRows?) throws(PostgresError) {
        let numbers = rows.map { "'{\($0.numbers.map(String.init).joined(separator: ","))}'" } ?? "NULL"
        _ = try session.execute(
            """
            SET LOCAL synchronous_commit = off;
            UPDATE reactions._batch SET confirmed_at = clock_timestamp(), mirrored = \(numbers)
            WHERE batch = \(number.rawValue)
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

    /// The newest batch that is confirmed with all before it, or a number below which nothing else is. It may be older than what is by now.
    public func confirmedBatch() throws(PostgresError) -> BatchNumber {
        let result = try session.query(
            """
            SELECT coalesce((SELECT min(batch) - 1 FROM reactions._batch WHERE confirmed_at IS NULL AND events > 0),
                            (SELECT max(batch) FROM reactions._batch),
                            (SELECT max(generation) FROM reactions._generation)::bigint << \(Version.sequenceBits))
            """)
        return BatchNumber(rawValue: try result.required(0, 0))
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

    /// Of the events a batch would have.
    private struct Tally {
        var events: Int64 = 0
        var hasRemovals = false
        /// Sum of the versions modulo 2^63.
        var checksum: Int64 = 0
        var typeIDs: [Int16] = []
        /// The first transaction that is not counted.
        var next: UInt64?
    }

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
            SELECT \(OutboxRows.exists(in: "reactions._outbox", where: outbox.newRows(since: newest.snapshot))),
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

    private func form(
        _ session: PostgresConnection, sequenceSeen: Int64
    ) throws(PostgresError) -> (batch: Batch, isCut: Bool) {
        var sequenceSeen = sequenceSeen
        var end = try snapshot(session.query("SELECT pg_current_snapshot()"), 0, 0)
        let catalog = try Self.catalog(session)
        // The first batch after a restore is not cut: the transaction ids of its rows are another cluster's.
        let isRestored = newest == nil && baseVersion > .zero
        var tally = try self.tally(session, until: end, atMost: isRestored ? nil : limits.batchEvents)
        let isCut = tally.next != nil
        if let next = tally.next {
            // Transactions of the range before and a transaction that is larger than a batch are not cut.
            let isUncounted = tally.events == 0 || next <= newest?.snapshot.xmax ?? 0
            end = end.cut(at: isUncounted ? max(next, newest?.snapshot.xmax ?? 0) + 1 : next)
            sequenceSeen = 0
            if isUncounted { tally = try self.tally(session, until: end, atMost: nil) }
        }
        let last = newest.map { $0.number.rawValue & Version.maximumSequence } ?? 0
        let batch = Batch(
            number: BatchNumber(rawValue: generation << Version.sequenceBits | (last + 1)), previous: newest?.snapshot,
            snapshot: end, events: tally.events, checksum: tally.checksum,
            chunkEvents: limits.chunkEvents, typeIDs: tally.typeIDs, hasRemovals: tally.hasRemovals, catalog: catalog)
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
        if !isCut { try completeBackfills(session, through: batch) }
        return (batch, isCut)
    }

    /// The batch's snapshot shows that a table was read to its end, and so every event that was captured meanwhile. Which batches rely on
    /// the rows that were read is settled here, in the transaction that forms the batch: every later one does, and at every attempt.
    private func completeBackfills(_ session: PostgresConnection, through batch: Batch) throws(PostgresError) {
        let eras = batch.catalog.values.flatMap(\.eras)
        guard eras.contains(where: { $0.isRead && $0.completeBatch == nil }) else { return }
        _ = try session.query(
            """
            UPDATE reactions._backfill SET complete_batch = $1::bigint WHERE read_at IS NOT NULL AND complete_batch IS NULL
            """, ["\(batch.number.rawValue)"])
    }

    /// Counts the events up to the snapshot. If there are more than the limit, counts those of the transactions below the one with which
    /// it is passed, which may be none; reads no further.
    private func tally(
        _ session: PostgresConnection, until end: Snapshot, atMost limit: Int64?
    ) throws(PostgresError) -> Tally {
        let rows = OutboxRows.select(
            "xid, type_id, version, scope", from: "reactions._outbox",
            where: outbox.rows(since: newest?.snapshot, until: end))
        let result = try session.query(
            """
            WITH new AS MATERIALIZED (
                \(rows)
                \(limit.map { "ORDER BY xid LIMIT \($0 + 1)" } ?? "")
            ), next AS (
                \(limit.map { "SELECT xid FROM new ORDER BY xid OFFSET \($0)" } ?? "SELECT NULL::xid8 AS xid LIMIT 0")
            )
            SELECT * FROM (SELECT (SELECT xid FROM next)) AS n
            LEFT JOIN (
                SELECT type_id, count(*), (sum(version) % 9223372036854775808)::bigint, bool_or(scope IN ('u', 'e'))
                FROM new WHERE (SELECT xid FROM next) IS NULL OR xid < (SELECT xid FROM next) GROUP BY type_id
            ) AS counted ON true
            """)
        var tally = Tally()
        tally.next = result.value(0, 0)
        for row in result.rows {
            guard let type = result.value(row, 1, as: Int16.self) else { continue }
            tally.typeIDs.append(type)
            tally.events += try result.required(row, 2, as: Int64.self)
            tally.checksum = (tally.checksum &+ (try result.required(row, 3))) & .max
            if result.isTrue(row, 4) { tally.hasRemovals = true }
        }
        return tally
    }

    /// Of the kept rows, those whose predecessor is kept too (or that are the cluster's first).
    private func batches(where condition: String) throws(PostgresError) -> [Batch] {
        let session = try session
        let result = try session.query(
            """
            SELECT batch, previous, snapshot, events, checksum, chunk_events, mirrored FROM (
                SELECT *, lag(snapshot) OVER (ORDER BY batch) AS previous FROM reactions._batch) kept
            WHERE \(condition) AND (previous IS NOT NULL OR batch & \(Version.maximumSequence) = 1) ORDER BY batch
            """)
        let catalog = try Self.catalog(session)
        var batches: [Batch] = []
        for row in result.rows {
            var batch = Batch(
                number: BatchNumber(rawValue: try result.required(row, 0)),
                previous: result.text(row, 1) == nil ? nil : try snapshot(result, row, 1),
                snapshot: try snapshot(result, row, 2), events: try result.required(row, 3),
                checksum: try result.required(row, 4), chunkEvents: try result.required(row, 5),
                // Not stored: every type is a safe answer, since it is needed only to raise epochs, and so are removals.
                typeIDs: catalog.keys.sorted(), hasRemovals: true, catalog: catalog)
            batch.mirrored = MirroredRows(numbers: result.numbers(row, 6))
            batches.append(batch)
        }
        return batches
    }

    func snapshot(_ result: PostgresResult, _ row: Int32, _ column: Int32) throws(PostgresError) -> Snapshot {
        guard let snapshot = Snapshot(try result.required(row, column, as: String.self)) else {
            throw PostgresError(disposition: .stop, message: "a snapshot cannot be read")
        }
        return snapshot
    }
}

extension PostgresSource.Newest {
    /// The floor this batch brings once its transactions have ended; none, as `finish` sees it, if it has seen no version.
    var floor: Int64 { sequenceSeen > 0 ? number.rawValue & ~Version.maximumSequence | sequenceSeen : 0 }
}

extension Version {
    static let maximumSequence: Int64 = 1 << sequenceBits - 1
}
