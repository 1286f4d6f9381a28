internal import Pipeline
internal import ReactionModel

/// What `reactiond status` and the metrics show; any session may ask, also a follower's.
public struct MirrorReport: Sendable, Codable, Equatable {
    public struct TypeReport: Sendable, Codable, Equatable {
        public var entityType: String
        public var phase: String
        public var epoch: Int64
        /// How far its rollback from `stop_writes` is, or what it waits for, in the operator's words; nil if none is under way.
        public var rollback: String?
    }

    /// Process id of the leader's backend and when it connected; nil without a leader.
    public var leaderPID: Int32?
    public var leaderSince: String?
    public var floor: Int64
    public var lastVersion: Int64
    /// Events that are in no finished batch.
    public var backlogEvents: Int64
    /// Age of the oldest of them in milliseconds; nil without backlog.
    public var oldestEventMilliseconds: Int64?
    public var unfinishedBatches: Int64
    /// Of those.
    public var unconfirmedBatches: Int64
    public var newestBatch: Int64?
    public var parkedEvents: Int64
    public var outboxBytes: Int64
    public var currentOutbox: Int32
    public var matchWanted: String?
    /// From write to confirmation, over the kept batches.
    public var lagP50Milliseconds: Int64?
    public var lagP99Milliseconds: Int64?
    public var types: [TypeReport]
    /// By name, what `reactions.stats` knows: gauges, and counters if they are of all sessions.
    public var statistics: [String: Double]
}

extension PostgresSource {
    public func report() throws(PostgresError) -> MirrorReport {
        try transaction("ISOLATION LEVEL REPEATABLE READ READ ONLY") { session throws(PostgresError) in
            let leader = try session.query(
                """
                SELECT l.pid, a.backend_start FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
                WHERE l.locktype = 'advisory' AND l.classid = \(Self.lockClass) AND l.objid = 1 AND l.objsubid = 2
                  AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                """)
            let mirror = try session.query(
                """
                SELECT coalesce(max(floor), 0), coalesce(max(current_outbox), 0), max(match_wanted),
                       coalesce(max(base_version), 0),
                       (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM reactions._version),
                       (SELECT count(*) FROM reactions._batch WHERE finished_at IS NULL),
                       (SELECT count(*) FROM reactions._batch WHERE finished_at IS NULL AND confirmed_at IS NULL),
                       (SELECT max(batch) FROM reactions._batch),
                       (SELECT count(*) FROM reactions.parked_event WHERE redriven_at IS NULL),
                       pg_total_relation_size('reactions._outbox_0') + pg_total_relation_size('reactions._outbox_1')
                           + pg_total_relation_size('reactions._outbox_2')
                FROM reactions._mirror
                """)
            baseVersion = Version(rawValue: try mirror.required(0, 3))
            let backlog = try backlog(session)
            let lag = try lag(session)
            let types = try Self.catalog(session).values.sorted { $0.name < $1.name }
            let rollbacks = try rollbacks(session)
            return MirrorReport(
                leaderPID: leader.value(0, 0), leaderSince: leader.text(0, 1), floor: try mirror.required(0, 0),
                lastVersion: try mirror.required(0, 4), backlogEvents: backlog.events,
                oldestEventMilliseconds: backlog.oldest, unfinishedBatches: try mirror.required(0, 5),
                unconfirmedBatches: try mirror.required(0, 6),
                newestBatch: mirror.value(0, 7), parkedEvents: try mirror.required(0, 8),
                outboxBytes: try mirror.required(0, 9), currentOutbox: try mirror.required(0, 1),
                matchWanted: mirror.text(0, 2), lagP50Milliseconds: lag.quantile(0.5),
                lagP99Milliseconds: lag.quantile(0.99),
                types: types.map {
                    .init(
                        entityType: $0.name, phase: $0.phase.rawValue, epoch: $0.epoch, rollback: rollbacks[$0.name])
                }, statistics: try statistics(session))
        }
    }

    private func backlog(_ session: PostgresConnection) throws(PostgresError) -> (events: Int64, oldest: Int64?) {
        let finished = try session.query(
            """
            SELECT snapshot FROM reactions._batch WHERE finished_at IS NOT NULL ORDER BY batch DESC LIMIT 1
            """)
        let rows = finished.rows.isEmpty ? ["true"] : outbox.newRows(since: try snapshot(finished, 0, 0))
        let result = try session.query(
            """
            SELECT count(*), (extract(epoch FROM clock_timestamp() - min(written_at)) * 1000)::bigint
            FROM (\(OutboxRows.select("written_at", from: "reactions._outbox", where: rows))) AS backlog
            """)
        return (try result.required(0, 0), result.value(0, 1))
    }

    private func rollbacks(_ session: PostgresConnection) throws(PostgresError) -> [String: String] {
        let result = try session.query(
            """
            SELECT entity_type, CASE WHEN waits_for IS NOT NULL THEN format('the one of %s comes first', waits_for)
                WHEN error IS NOT NULL THEN format('tried again: %s', error)
                ELSE format('%s of %s reactions written back', keys_done, coalesce(keys_total::text, '?')) END
            FROM reactions.write_backs WHERE finished_at IS NULL
            """)
        var rollbacks: [String: String] = [:]
        for row in result.rows { rollbacks[try result.required(row, 0)] = result.text(row, 1) }
        return rollbacks
    }

    private func statistics(_ session: PostgresConnection) throws(PostgresError) -> [String: Double] {
        let result = try session.query(
            "SELECT name, value::float8 FROM reactions.stats WHERE value IS NOT NULL AND (shared OR kind = 'gauge')")
        var statistics: [String: Double] = [:]
        for row in result.rows { statistics[try result.required(row, 0)] = try result.required(row, 1) }
        return statistics
    }

    private func lag(_ session: PostgresConnection) throws(PostgresError) -> LagHistogram {
        let result = try session.query(
            "SELECT lag_histogram FROM reactions._batch WHERE events > 0 AND finished_at IS NOT NULL")
        var lag = LagHistogram()
        for row in result.rows {
            if let batch = LagHistogram(counts: result.numbers(row, 0)) { lag.add(batch) }
        }
        return lag
    }
}
