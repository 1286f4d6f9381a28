public import Pipeline
public import ReactionModel

/// The sessions of a rollback from phase `stop_writes`: one writes pages and progress in short transactions, the other keeps the outbox
/// from being emptied from before a batch is chosen to the flip, which is in the same transaction.
///
/// Who writes is settled by the request's row: taking it up counts its term on, every transaction locks the row and compares the term.
/// So an agent that was given up by mistake writes nothing after another one has begun.
public actor WriteBackSource {
    /// A request of `reactions.write_back` that this agent has taken up.
    public struct Job: Sendable {
        public var request: Int64
        public var term: Int32
        public var type: EntityType
        /// The last event that was a change of the table.
        public var stopVersion: Version
    }

    /// Where a round of batches begins and ends.
    public struct Round: Sendable {
        public var done: BatchNumber
        public var chosen: BatchNumber?
        /// Chosen under the lock that is held now.
        public var isFresh: Bool
        /// Up to it a former agent has written the users.
        public var usersDone: Int64?
    }

    public nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.postgres.rollback")
    private let wakeUp = WakeUp()
    private let settings: PostgresSettings
    private var writer: PostgresConnection?
    private var holder: PostgresConnection?
    /// What the batches of this round, and rounds of events since, have shown.
    private var position = ""

    public init(settings: PostgresSettings) {
        self.settings = settings
    }

    public func close() {
        writer = nil
        holder = nil
    }

    // MARK: Requests

    /// The requests that are open, after those that nobody waits for have been ended.
    public func requests() throws(PostgresError) -> [(request: Int64, entityType: String)] {
        let session = try writing
        let isOpen = try session.queryPrepared(
            "SELECT EXISTS (SELECT FROM reactions.write_back WHERE finished_at IS NULL)")
        guard isOpen.isTrue(0, 0) else { return [] }
        _ = try session.query("SELECT reactions._withdraw_deserted()")
        let found = try session.query(
            """
            SELECT w.write_back_id, t.entity_type FROM reactions.write_back w JOIN reactions.entity_type t USING (type_id)
            WHERE w.finished_at IS NULL ORDER BY w.write_back_id
            """)
        var requests: [(request: Int64, entityType: String)] = []
        for row in found.rows { requests.append((try found.required(row, 0), try found.required(row, 1))) }
        return requests
    }

    /// From here on no other agent writes for the request. Nil if there is nothing to be rolled back any more.
    public func takeUp(_ request: Int64) throws(PostgresError) -> Job? {
        let session = try writing
        let found = try session.query(
            """
            UPDATE reactions.write_back w SET term = w.term + 1 FROM reactions.entity_type t
            WHERE w.write_back_id = $1::bigint AND w.finished_at IS NULL AND t.type_id = w.type_id AND t.stop_version IS NOT NULL
            RETURNING w.term, w.type_id, t.stop_version
            """, ["\(request)"])
        guard !found.rows.isEmpty,
            let type = try PostgresSource.catalog(session)[try found.required(0, 1, as: Int16.self)]
        else { return nil }
        return Job(
            request: request, term: try found.required(0, 0), type: type,
            stopVersion: Version(rawValue: try found.required(0, 2)))
    }

    /// What keeps it up, for who waits.
    public func note(_ problem: String?, _ job: Job) throws(PostgresError) {
        _ = try writing.query(
            """
            UPDATE reactions.write_back SET error = $3 WHERE write_back_id = $1::bigint AND term = $2::integer
            AND finished_at IS NULL AND error IS DISTINCT FROM $3
            """, ["\(job.request)", "\(job.term)", problem])
    }

    /// It cannot be carried out.
    public func fail(_ problem: String, _ job: Job) throws(PostgresError) {
        _ = try writing.query(
            """
            UPDATE reactions.write_back SET state = 'failed', finished_at = clock_timestamp(), error = $3
            WHERE write_back_id = $1::bigint AND term = $2::integer AND finished_at IS NULL
            """, ["\(job.request)", "\(job.term)", problem])
    }

    // MARK: A round

    /// Locks the outbox, in a transaction without a snapshot or an id of its own, and chooses the newest batch that is in ClickHouse with
    /// all before it: unless a former agent has left a round in its middle. Nil if the request is closed, or another agent's.
    ///
    /// A ClickHouse that has started since it confirmed a batch that is still kept may have lost it, until the mirror has looked. Then
    /// every event of the outbox is written after the states: applied in order, those that the states have change nothing.
    ///
    /// - Parameter started: when ClickHouse did, in unix seconds, as far as the clocks may differ.
    public func begin(_ job: Job, clickHouseStarted started: Int64) throws(PostgresError) -> Round? {
        giveUp()
        _ = try writing.query("SELECT reactions._withdraw_deserted()")
        let holder = try holding
        let found = try holder.execute(
            """
            BEGIN ISOLATION LEVEL READ COMMITTED;
            LOCK TABLE reactions._outbox_0, reactions._outbox_1, reactions._outbox_2 IN ACCESS SHARE MODE;
            SELECT b.batch, CASE
                WHEN EXISTS (SELECT FROM reactions._batch k WHERE k.confirmed_at < to_timestamp(\(started)))
                THEN (SELECT o.snapshot FROM reactions._batch o ORDER BY o.batch LIMIT 1) ELSE b.snapshot END
            FROM reactions._batch b
            WHERE b.finished_at IS NOT NULL AND NOT EXISTS (
                SELECT FROM reactions._batch e WHERE e.batch <= b.batch AND e.finished_at IS NULL)
            ORDER BY b.batch DESC LIMIT 1
            """)
        let chosen = found.last?.value(0, 0, as: Int64.self)
        position = found.last?.text(0, 1) ?? ""
        let progress = try writing.query(
            """
            UPDATE reactions.write_back SET to_batch = coalesce(to_batch, CASE WHEN $3::bigint > from_batch THEN $3::bigint END)
            WHERE write_back_id = $1::bigint AND term = $2::integer AND finished_at IS NULL
            RETURNING from_batch, to_batch, users_done
            """, ["\(job.request)", "\(job.term)", chosen.map { "\($0)" }])
        guard !progress.rows.isEmpty else { return nil }
        let through = progress.value(0, 1, as: Int64.self) ?? chosen
        return Round(
            done: BatchNumber(rawValue: try progress.required(0, 0)), chosen: through.map(BatchNumber.init(rawValue:)),
            isFresh: through == chosen, usersDone: progress.value(0, 2))
    }

    /// - Parameter reactions: that are to be written.
    public func planned(_ reactions: Int64, _ job: Job) throws(PostgresError) {
        _ = try writing.query(
            """
            UPDATE reactions.write_back SET state = 'writing', keys_total = greatest(keys_done + $3::bigint, keys_total)
            WHERE write_back_id = $1::bigint AND term = $2::integer AND finished_at IS NULL
            """, ["\(job.request)", "\(job.term)", "\(reactions)"])
    }

    /// - Parameter user: with this page every user up to it is done.
    public func write(_ page: WriteBackPage, through user: Int64?, _ job: Job) throws(PostgresError) {
        _ = try writing.query(
            """
            SELECT reactions._write_back_page($1::bigint, $2::integer, $3::bigint[], $4::bigint[], $5::integer[], $6::integer[],
                ARRAY(SELECT to_timestamp(0) + at * interval '1 microsecond' FROM unnest($7::bigint[]) WITH ORDINALITY AS t (at, place)
                      ORDER BY place), $8::bigint, $9::bigint)
            """,
            ["\(job.request)", "\(job.term)"] + page.columns + ["\(page.keys)", user.map { "\($0)" }])
    }

    public func batchesWritten(_ job: Job) throws(PostgresError) {
        _ = try writing.query(
            """
            UPDATE reactions.write_back SET from_batch = coalesce(to_batch, from_batch), to_batch = NULL, users_done = NULL,
                rounds = rounds + 1, keys_total = greatest(keys_total, keys_done)
            WHERE write_back_id = $1::bigint AND term = $2::integer AND finished_at IS NULL
            """, ["\(job.request)", "\(job.term)"])
    }

    /// Returns how many events there were; above `RollBack.mostEvents` nothing was written.
    public func writeEvents(_ job: Job) throws(PostgresError) -> Int64 {
        let found = try writing.query(
            """
            SELECT w.until, w.events FROM reactions._write_back_events($1::bigint, $2::integer, $3::pg_snapshot, $4::bigint) w
            """, ["\(job.request)", "\(job.term)", position, "\(RollBack.mostEvents)"])
        let events = try found.required(0, 1, as: Int64.self)
        if events <= RollBack.mostEvents { position = try found.required(0, 0) }
        return events
    }

    /// Commits the flip, with the lock that was taken first.
    public func flip(_ job: Job) throws(PostgresError) {
        guard let holder, holder.isUsable else { throw Self.ended }
        _ = try holder.query(
            "SELECT reactions._finish_write_back($1::bigint, $2::integer, $3::pg_snapshot, $4::bigint)",
            ["\(job.request)", "\(job.term)", position, "\(RollBack.mostAtTheEnd)"])
        _ = try holder.execute("COMMIT")
        self.holder = nil
    }

    /// Gives the lock back.
    public func giveUp() {
        if let holder, !holder.isUsable || (try? holder.execute("ROLLBACK")) == nil { self.holder = nil }
        if let writer, !writer.isUsable { self.writer = nil }
    }

    private static let ended = PostgresError(disposition: .reconnect, message: "the session has ended")
    private var writing: PostgresConnection {
        get throws(PostgresError) { try writer.usable { () throws(PostgresError) in try connect() } }
    }

    private var holding: PostgresConnection {
        get throws(PostgresError) { try holder.usable { () throws(PostgresError) in try connect() } }
    }

    private func connect() throws(PostgresError) -> PostgresConnection {
        try settings.openSession("rollback", wakeUp: wakeUp)
    }
}

extension WriteBackPage {
    /// Arrays of `_write_back`; times in microseconds since 1970.
    var columns: [String?] {
        func array(_ values: some Sequence<some CustomStringConvertible>) -> String {
            "{" + values.lazy.map(\.description).joined(separator: ",") + "}"
        }
        return [
            array(steps.lazy.map(\.userID)), array(steps.lazy.map(\.entityID)), array(steps.lazy.map(\.setMask)),
            array(steps.lazy.map(\.clearMask)), array(steps.lazy.map(\.createdAt)),
        ]
    }
}
