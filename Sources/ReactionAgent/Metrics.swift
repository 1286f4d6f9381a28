internal import Pipeline
internal import PostgresSource
internal import Synchronization

/// Counters and gauges, in Prometheus's text format. Names are `reactiond_<subsystem>_<what>_<unit>`.
public final class Metrics: Sendable {
    public enum Role: String, Sendable {
        case connecting
        case following
        case leading
    }

    struct Values {
        var role = Role.connecting
        var isRedisFailing = false
        var isSinkFailing = false
        var underWayBatches = 0
        var formedBatches: UInt64 = 0
        var finishedBatches: UInt64 = 0
        var finishedEvents: UInt64 = 0
        var lastFinished: Double = 0
        var insertedEvents: UInt64 = 0
        var appliedEvents: UInt64 = 0
        var offeredRemovals: UInt64 = 0
        /// Users, and the seconds that the first of them has waited; nil as long as it is not known.
        var erasures: (pending: Int, oldest: Double)?
        var parkedEvents: UInt64 = 0
        var resentChunks: UInt64 = 0
        var redisFailures: UInt64 = 0
        var sinkFailures: UInt64 = 0
        var postgresFailures: UInt64 = 0
        var raisedEpochs: UInt64 = 0
        var lag = LagHistogram()
        var matches: [MatchReport] = []
        /// Nil if there was none.
        var reconciliation: ReconcileReport?
        /// Seconds; nil as long as it is not known.
        var outboxAge: Double?
        /// By entity type.
        var phases: [String: String] = [:]
        /// Of types that are to leave their phase by themselves and have been in it for long enough.
        var unmetConditions: [String: Int] = [:]
    }

    private let values = Mutex(Values())

    public init() {}

    func update(_ change: (inout Values) -> Void) {
        values.withLock { change(&$0) }
    }

    /// Whether this agent does what it is there for: it leads and both servers take events, or it follows.
    public var isReady: Bool {
        values.withLock { values in
            switch values.role {
            case .connecting: false
            case .following: true
            case .leading: !values.isRedisFailing && !values.isSinkFailing
            }
        }
    }

    public var role: Role { values.withLock { $0.role } }

    /// Phases of the types, by name; empty as long as they are not known.
    var phases: [String: String] { values.withLock { $0.phases } }

    public func text() -> String {
        let values = values.withLock { $0 }
        var text = PrometheusText()
        text.gauge(
            "reactiond_mirror_leading_bool", "1 while this agent is the leader.", values.role == .leading ? 1 : 0)
        text.gauge(
            "reactiond_mirror_under_way_batches", "Batches formed and not finished.", Double(values.underWayBatches))
        text.gauge(
            "reactiond_mirror_last_finished_timestamp_seconds", "When the last batch was finished, 0 if none was.",
            values.lastFinished)
        text.counter("reactiond_mirror_formed_batches_total", "Batches formed.", values.formedBatches)
        text.counter("reactiond_mirror_finished_batches_total", "Batches finished.", values.finishedBatches)
        text.counter("reactiond_mirror_finished_events_total", "Events in finished batches.", values.finishedEvents)
        text.histogram(
            "reactiond_mirror_lag_seconds", "From an event's write to ClickHouse's confirmation.", values.lag)
        text.gauge("reactiond_redis_failing_bool", "1 while Redis takes nothing.", values.isRedisFailing ? 1 : 0)
        text.counter("reactiond_redis_applied_events_total", "Events offered to user maps.", values.appliedEvents)
        text.counter("reactiond_redis_failures_total", "Failed attempts at Redis.", values.redisFailures)
        text.counter(
            "reactiond_redis_raised_epochs_total", "Times that user maps were made absent because Redis was away.",
            values.raisedEpochs)
        text.gauge(
            "reactiond_clickhouse_failing_bool", "1 while ClickHouse takes nothing.", values.isSinkFailing ? 1 : 0)
        text.counter("reactiond_clickhouse_inserted_events_total", "Events confirmed.", values.insertedEvents)
        text.counter(
            "reactiond_redis_removals_total", "Users and entities that are gone, of which Redis was told.",
            values.offeredRemovals)
        text.counter("reactiond_clickhouse_parked_events_total", "Events that were refused.", values.parkedEvents)
        text.counter(
            "reactiond_clickhouse_resent_chunks_total", "Confirmed chunks that were gone after a restart.",
            values.resentChunks)
        text.counter("reactiond_clickhouse_failures_total", "Failed attempts at ClickHouse.", values.sinkFailures)
        text.gauge(
            "reactiond_erasure_pending_users", "Users who are forgotten and not erased yet.",
            values.erasures.map { Double($0.pending) })
        text.gauge(
            "reactiond_erasure_oldest_seconds", "How long the first of them has waited.", values.erasures?.oldest)
        text.counter("reactiond_postgres_failures_total", "Sessions that ended with an error.", values.postgresFailures)
        text.gauge(
            "reactiond_outbox_oldest_event_seconds",
            "How long the oldest event that is in no finished batch has waited, as the leader sees it.",
            values.role == .leading ? values.outboxAge : nil)
        add(values.role == .leading ? values.matches : [], to: &text)
        if values.role == .leading, let report = values.reconciliation { add(report, to: &text) }
        text.gauges(
            "reactiond_phase", "1 for the phase that an entity type is in.",
            values.phases.sorted { $0.key < $1.key }.map { ([("type", $0.key), ("phase", $0.value)], 1) })
        text.gauges(
            "reactiond_conditions_unmet",
            "What an entity type that is to advance by itself lacks for its next phase, looked at every minute.",
            values.unmetConditions.sorted { $0.key < $1.key }.map { ([("type", $0.key)], Double($0.value)) })
        return text.text
    }

    /// Of the leader only: what a follower has seen is old.
    private func add(_ matches: [MatchReport], to text: inout PrometheusText) {
        guard !matches.isEmpty else { return }
        text.gauges(
            "reactiond_match_differences", "Reactions on which the last matches found table and ClickHouse apart.",
            matches.flatMap { match in
                DifferenceClass.allCases.map { reason in
                    (
                        [("type", match.entityType), ("class", reason.rawValue)],
                        Double(match.differences[reason.rawValue] ?? 0)
                    )
                }
            })
        text.gauges(
            "reactiond_match_last_clean_timestamp_seconds", "When the last full match without a difference left ended.",
            matches.map { ([("type", $0.entityType)], $0.lastClean) })
        text.gauges(
            "reactiond_match_duration_seconds", "What the last match took.",
            matches.flatMap { match in
                [("full", match.fullTime), ("recent", match.recentTime)].compactMap { scope, time in
                    time.map { ([("type", match.entityType), ("scope", scope)], $0) }
                }
            })
        text.gauges(
            "reactiond_capture_altered",
            "1 while the capture of a table is not whole, or was altered since the last clean match began.",
            matches.map { ([("type", $0.entityType)], $0.isCaptureInDoubt ? 1 : 0) })
    }

    private func add(_ report: ReconcileReport, to text: inout PrometheusText) {
        text.gauge(
            "reactiond_reconcile_last_run_timestamp_seconds", "When the last look through Redis ended.",
            report.finishedAt)
        text.gauge("reactiond_reconcile_duration_seconds", "What it took.", report.duration)
        text.gauge(
            "reactiond_reconcile_verified_entities", "Entities that it compared with ClickHouse.",
            Double(report.verified))
        let labelled = report.counts.map { count in
            (labels: [(name: "type", value: count.entityType), (name: "class", value: count.name)], count: count)
        }
        text.gauges(
            "reactiond_reconcile_keys", "Entities and other keys of Redis that it found to be right, or stale.",
            labelled.filter { !$0.count.isFault }.map { ($0.labels, Double($0.count.found)) })
        text.gauges(
            "reactiond_reconcile_drift_found", "Faults that it found.",
            labelled.filter(\.count.isFault).map { ($0.labels, Double($0.count.found)) })
        text.gauges(
            "reactiond_reconcile_drift_repaired", "Faults that it repaired.",
            labelled.filter(\.count.isFault).map { ($0.labels, Double($0.count.repaired)) })
    }
}

/// The exposition format, version 0.0.4.
struct PrometheusText {
    private(set) var text = ""

    /// - Parameter value: nil while it is not known, which is another thing than 0.
    mutating func gauge(_ name: String, _ help: String, _ value: Double?) {
        guard let value else { return }
        header(name, help, "gauge")
        text += "\(name) \(value)\n"
    }

    /// One value for each set of labels.
    mutating func gauges(
        _ name: String, _ help: String, _ values: [(labels: [(name: String, value: String)], value: Double)]
    ) {
        header(name, help, "gauge")
        for (labels, value) in values {
            let pairs = labels.map { label in
                let escaped = label.value.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing(
                    "\n", with: "\\n")
                return "\(label.name)=\"\(escaped)\""
            }
            text += "\(name){\(pairs.joined(separator: ","))} \(value)\n"
        }
    }

    mutating func counter(_ name: String, _ help: String, _ value: UInt64) {
        header(name, help, "counter")
        text += "\(name) \(value)\n"
    }

    /// The sum is of the buckets' upper bounds: an upper estimate.
    mutating func histogram(_ name: String, _ help: String, _ lag: LagHistogram) {
        header(name, help, "histogram")
        var count: Int64 = 0
        var sum: Double = 0
        for (bound, events) in zip(LagHistogram.bounds, lag.counts) {
            count += Int64(events)
            sum += Double(bound) / 1000 * Double(events)
            text += "\(name)_bucket{le=\"\(Double(bound) / 1000)\"} \(count)\n"
        }
        let total = lag.total
        text += "\(name)_bucket{le=\"+Inf\"} \(total)\n\(name)_sum \(sum)\n\(name)_count \(total)\n"
    }

    private mutating func header(_ name: String, _ help: String, _ type: String) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
    }
}
