public import Pipeline
public import ReactionModel

/// The three outbox tables: rotating, truncating, and the events that were parked.
extension PostgresSource {
    public struct ParkedEvent: Sendable {
        public var version: Version
        /// ClickHouse's code, or 0 if the event was never sent because its type is not known.
        public var errorCode: Int32
    }

    /// The batch's events of users and entities that are gone, above a version and in order; fewer than the limit at their end.
    public func removals(of batch: Batch, after version: Version, limit: Int) throws(PostgresError) -> [Event] {
        let rows = outbox.rows(since: batch.previous, until: batch.snapshot)
            .map { "\($0) AND version > \(version.rawValue) AND scope IN ('u', 'e')" }
        let selects = (0..<3).map {
            OutboxRows.select(EventDecoder.columns, from: "reactions._outbox_\($0)", where: rows)
        }
        let session = try session
        try session.beginCopy(
            """
            COPY (\(selects.joined(separator: " UNION ALL ")) ORDER BY version LIMIT \(limit)) TO STDOUT (FORMAT binary)
            """)
        var decoder = EventDecoder()
        var events: [Event] = []
        _ = try session.continueCopy { row throws(PostgresError) in
            if let event = try decoder.decode(row) { events.append(event) }
            return true
        }
        return events
    }

    /// The parked events of a range of versions of one batch.
    public func parkedEvents(
        of batch: BatchNumber, from first: Version, through last: Version
    ) throws(PostgresError) -> [ParkedEvent] {
        let result = try session.query(
            """
            SELECT version, error_code FROM reactions.parked_event
            WHERE version BETWEEN $1::bigint AND $2::bigint AND batch = $3::bigint
            """, ["\(first.rawValue)", "\(last.rawValue)", "\(batch.rawValue)"])
        var parked: [ParkedEvent] = []
        for row in result.rows {
            parked.append(
                ParkedEvent(
                    version: Version(rawValue: try result.required(row, 0)), errorCode: try result.required(row, 1)))
        }
        return parked
    }

    /// Copies events of the outbox, whole, to where an operator finds them. Durable on return; parking again changes nothing.
    public func park(
        _ versions: [Version], batch: BatchNumber, errorCode: Int32, error: String
    ) throws(PostgresError) {
        _ = try session.query(
            """
            INSERT INTO reactions.parked_event (\(EventDecoder.columns), batch, error_code, error)
            SELECT \(EventDecoder.columns), $2::bigint, $3::integer, $4 FROM reactions._outbox
            WHERE version = ANY ($1::bigint[]) ON CONFLICT (version) DO NOTHING
            """,
            [
                "{\(versions.map { String($0.rawValue) }.joined(separator: ","))}", "\(batch.rawValue)", "\(errorCode)",
                error,
            ])
    }

    /// How long the oldest event that is in no finished batch has waited, and zero without one.
    static func lag(_ session: PostgresConnection) throws(PostgresError) -> Duration {
        let result = try session.query(
            "SELECT (extract(epoch FROM clock_timestamp() - written_at) * 1000)::bigint FROM reactions._oldest_event")
        return .milliseconds(max(result.value(0, 0, as: Int64.self) ?? 0, 0))
    }

    /// Drops finished batches after the retention, empties outbox tables and moves on to the next one; once per interval.
    ///
    /// - Parameter unverified: for how long it is not known whether the sink still has what it has confirmed. The retention is from
    ///   before: a server that is away may come back without what it had not written to its disk. Nil: it was not known yet.
    public func maintain(unverified: Duration?) throws(PostgresError) {
        if let lastMaintenance, .now - lastMaintenance < limits.maintenanceInterval { return }
        lastMaintenance = .now
        let end = unverified.map {
            "clock_timestamp() - interval '\((limits.retention + $0).components.seconds) seconds'"
        }
        if let end { try dropBatches(finishedBefore: end) }
        try foldSkipped()
        let session = try session
        let mirror = try session.query("SELECT current_outbox FROM reactions._mirror")
        let current = try mirror.required(0, 0, as: Int.self)
        if let end {
            for table in 0..<3 where table != current { try truncate(table, finishedBefore: end) }
        }
        try rotate(from: current)
    }

    /// Keeps the newest row that is older than the retention: it is where the first kept batch starts.
    private func dropBatches(finishedBefore end: String) throws(PostgresError) {
        _ = try session.query(
            """
            DELETE FROM reactions._batch
            WHERE batch < (SELECT max(batch) FROM reactions._batch WHERE finished_at <= \(end))
            """)
    }

    /// Capture adds a row per statement for kinds that are no reactions; their sums are enough.
    private func foldSkipped() throws(PostgresError) {
        _ = try session.query(
            """
            WITH many AS (
                SELECT type_id, kind, max(version) AS last FROM reactions._skipped
                GROUP BY type_id, kind HAVING count(*) > \(limits.skippedRows)
            ), gone AS (
                DELETE FROM reactions._skipped s USING many m
                WHERE s.type_id = m.type_id AND s.kind = m.kind AND s.version < m.last RETURNING s.*
            ), sums AS (
                SELECT type_id, kind, sum(rows)::bigint AS rows FROM gone GROUP BY type_id, kind
            )
            UPDATE reactions._skipped s SET rows = s.rows + sums.rows FROM sums JOIN many USING (type_id, kind)
            WHERE s.version = many.last
            """)
    }

    /// Writers move to the next table as they see the row; those that still write to the old one hold a lock on it. The row is not
    /// touched without need: an UPDATE, even of no row, makes every session read its catalog again.
    private func rotate(from current: Int) throws(PostgresError) {
        let session = try session
        let next = (current + 1) % 3
        let isDue = try session.query(
            """
            SELECT NOT EXISTS (SELECT FROM reactions._outbox_\(next)) AND EXISTS (SELECT FROM reactions._outbox_\(current))
                   AND (pg_relation_size('reactions._outbox_\(current)') >= \(limits.rotateBytes)
                        OR rotated_at <= clock_timestamp() - interval '\(limits.rotateAfter.components.seconds) seconds')
            FROM reactions._mirror
            """)
        guard isDue.isTrue(0, 0) else { return }
        _ = try session.query(
            "UPDATE reactions._mirror SET current_outbox = \(next), rotated_at = clock_timestamp()")
    }

    /// Empties a table that is not written to any more, if every row is at or below the floor and in a batch that is not kept.
    ///
    /// The rows are checked in a snapshot first, without a lock: by index whether a kept batch has one, then, reading the table,
    /// that all are at or below the floor. Under the lock only what that snapshot could not see, which two index look-ups tell.
    /// NOWAIT: a waiting ACCESS EXCLUSIVE request would make every reader behind it wait.
    private func truncate(_ table: Int, finishedBefore end: String) throws(PostgresError) {
        let session = try session
        let name = "reactions._outbox_\(table)"
        guard
            let finished = try session.query(
                """
                SELECT snapshot FROM reactions._batch WHERE finished_at <= \(end) ORDER BY batch DESC LIMIT 1
                """
            ).text(0, 0), let finished = Snapshot(finished)
        else { return }
        let check = try session.query(
            """
            SELECT pg_current_snapshot(), EXISTS (SELECT FROM \(name)),
                   NOT \(OutboxRows.exists(in: name, where: outbox.newRows(since: finished)))
                   AND NOT EXISTS (SELECT FROM \(name) WHERE version > (SELECT floor FROM reactions._mirror))
            """)
        guard check.isTrue(0, 1), check.isTrue(0, 2) else { return }
        let checked = try snapshot(check, 0, 0)
        do throws(PostgresError) {
            try transaction("") { session throws(PostgresError) in
                _ = try session.query("LOCK TABLE \(name) IN ACCESS EXCLUSIVE MODE NOWAIT")
                let news = try session.query(
                    "SELECT " + OutboxRows.exists(in: name, where: OutboxRows.hidden(from: checked)))
                if !news.isTrue(0, 0) { _ = try session.query("TRUNCATE \(name)") }
            }
        } catch  where error.sqlState == "55P03" {
            // Somebody is reading or writing: next time.
        }
    }
}
