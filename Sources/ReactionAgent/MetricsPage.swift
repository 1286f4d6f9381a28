internal import Pipeline
internal import PostgresSource

/// Every metric there is, from what the services have noted. What is not known is not there: it is another thing than 0.
///
/// Most of it only a leader knows; what a follower has noted while it led is old, and it shows no gauge of it.
struct MetricsPage {
    private let values: Metrics.Values
    private let isLeading: Bool
    private var page = PrometheusText()

    var text: String { page.text }

    init(_ values: Metrics.Values) {
        self.values = values
        isLeading = values.role == .leading
        addMirror()
        addServers()
        addRedisNodes()
        addBackends()
        addEntities()
        addErasures()
        addMatches()
        addReconciliation()
        addPhases()
    }

    private mutating func addMirror() {
        page.gauge("reactiond_mirror_leading_bool", "1 while this agent is the leader.", isLeading ? 1 : 0)
        page.gauge(
            "reactiond_mirror_under_way_batches", "Batches formed and not finished.",
            isLeading ? Double(values.behind.batches) : nil)
        page.gauges(
            "reactiond_mirror_behind_batches", "Batches formed that a destination does not have yet.",
            isLeading
                ? values.behind.byDestination.map { ([("destination", $0.destination)], Double($0.batches)) } : [])
        page.gauge(
            "reactiond_outbox_oldest_event_seconds",
            "How long the oldest event that is in no finished batch has waited, as the leader sees it.",
            isLeading ? values.outboxAge : nil)
        page.gauge(
            "reactiond_mirror_last_finished_timestamp_seconds", "When the last batch was finished, 0 if none was.",
            values.lastFinished)
        page.counter("reactiond_mirror_formed_batches_total", "Batches formed.", values.formedBatches)
        page.counter("reactiond_mirror_finished_batches_total", "Batches finished.", values.finishedBatches)
        page.counter("reactiond_mirror_finished_events_total", "Events in finished batches.", values.finishedEvents)
        page.histogram(
            "reactiond_mirror_lag_seconds", "From an event's write to ClickHouse's confirmation.", values.lag)
        page.counter("reactiond_postgres_failures_total", "Sessions that ended with an error.", values.postgresFailures)
    }

    private mutating func addServers() {
        page.gauge(
            "reactiond_redis_failing_bool", "1 while Redis takes nothing.",
            isLeading ? values.isRedisFailing ? 1 : 0 : nil)
        page.counter("reactiond_redis_applied_events_total", "Events offered to user maps.", values.appliedEvents)
        page.counter("reactiond_redis_failures_total", "Failed attempts at Redis.", values.redisFailures)
        page.counter(
            "reactiond_redis_raised_epochs_total",
            "Times that user maps and entities were made absent: Redis was away, or was given older contents.",
            values.raisedEpochs)
        page.counter(
            "reactiond_redis_removals_total", "Users and entities that are gone, of which Redis was told.",
            values.offeredRemovals)
        page.gauge(
            "reactiond_clickhouse_failing_bool", "1 while ClickHouse takes nothing.",
            isLeading ? values.isSinkFailing ? 1 : 0 : nil)
        page.counter("reactiond_clickhouse_inserted_events_total", "Events confirmed.", values.insertedEvents)
        page.counter("reactiond_clickhouse_parked_events_total", "Events that were refused.", values.parkedEvents)
        page.counter(
            "reactiond_clickhouse_resent_chunks_total", "Confirmed chunks that were gone after a restart.",
            values.resentChunks)
        page.counter("reactiond_clickhouse_failures_total", "Failed attempts at ClickHouse.", values.sinkFailures)
    }

    private mutating func addRedisNodes() {
        guard isLeading, let nodes = values.redisServers else { return }
        func each(_ value: (RedisReport.Server) -> Int64?) -> [PrometheusText.Labelled] {
            nodes.compactMap { node in
                node.report.flatMap(value).map { ([("server", node.place)], Double($0)) }
            }
        }
        page.gauges(
            "reactiond_redis_reachable_bool", "1 for a server with keys that the agent reaches, else 0.",
            nodes.map { ([("server", $0.place)], $0.report == nil ? 0 : 1) })
        page.gauges("reactiond_redis_used_memory_bytes", "Memory in use.", each { $0.usedMemory })
        page.gauges("reactiond_redis_max_memory_bytes", "maxmemory; not there without a limit.", each { $0.maxMemory })
        page.counters("reactiond_redis_evicted_keys_total", "Keys evicted for want of memory.", each { $0.evictedKeys })
    }

    /// A restart of PostgreSQL begins them anew, which Prometheus takes for what it is: a counter that has fallen.
    private mutating func addBackends() {
        guard isLeading, let backends = values.backends else { return }
        page.gauge(
            "reactiond_backend_since_timestamp_seconds", "When the counters of reactions.stats began.", backends.since)
        for counter in backends.counters {
            page.counter(
                "reactiond_backend_\(counter.name)_total", "\(counter.name) of reactions.stats, of all sessions.",
                UInt64(max(counter.value, 0)))
        }
    }

    private mutating func addEntities() {
        page.counter(
            "reactiond_entity_counted_events_total", "Events of counted types that were offered to entities.",
            values.countedEvents)
        page.counter("reactiond_entity_writes_total", "Entities written or dropped.", values.writtenEntities)
        page.counter(
            "reactiond_entity_skipped_writes_total",
            "Entities left alone because they had changed since they were read.", values.changedEntities)
        page.counter(
            "reactiond_entity_rebuilds_total", "Entities installed as read of ClickHouse.", values.installedEntities)
        page.counter(
            "reactiond_entity_drops_total", "Entities that were not whole, or not what their events make of them.",
            values.droppedEntities)
        page.counter(
            "reactiond_entity_foreign_keys_total",
            "Times that the key of an entity's counts, or of wanted entities, was of another type.",
            values.foreignEntities)
        page.counter("reactiond_entity_promotions_total", "Entities that became viral.", values.promotedEntities)
        page.counter("reactiond_entity_demotions_total", "Entities that became regular.", values.demotedEntities)
    }

    private mutating func addErasures() {
        page.gauge(
            "reactiond_erasure_pending_users", "Users who are forgotten and not erased yet.",
            values.erasures.map { Double($0.pending) })
        page.gauge(
            "reactiond_erasure_oldest_seconds", "How long the first of them has waited.", values.erasures?.oldest)
    }

    private mutating func addMatches() {
        guard isLeading else { return }
        let matches = values.matches
        page.gauges(
            "reactiond_match_differences", "Reactions on which the last matches found table and ClickHouse apart.",
            matches.flatMap { match in
                DifferenceClass.allCases.map { reason in
                    (
                        [("type", match.entityType), ("class", reason.rawValue)],
                        Double(match.differences[reason.rawValue] ?? 0)
                    )
                }
            })
        page.gauges(
            "reactiond_match_last_clean_timestamp_seconds", "When the last full match without a difference left ended.",
            matches.map { ([("type", $0.entityType)], $0.lastClean) })
        page.gauges(
            "reactiond_match_duration_seconds", "What the last match took.",
            matches.flatMap { match in
                [("full", match.fullTime), ("recent", match.recentTime)].compactMap { scope, time in
                    time.map { ([("type", match.entityType), ("scope", scope)], $0) }
                }
            })
        page.gauges(
            "reactiond_capture_altered",
            "1 while the capture of a table is not whole, or was altered since the last clean match began.",
            matches.map { ([("type", $0.entityType)], $0.isCaptureInDoubt ? 1 : 0) })
    }

    private mutating func addReconciliation() {
        page.counter(
            "reactiond_reconcile_finished_runs_total", "Looks through Redis that this agent has ended.",
            values.finishedReconciliations)
        page.counter(
            "reactiond_reconcile_failed_runs_total", "Looks through Redis that ended with an error.",
            values.failedReconciliations)
        page.gauge(
            "reactiond_reconcile_interval_seconds", "Between two that the agent begins; not there if it begins none.",
            values.reconcileInterval)
        guard isLeading, let report = values.reconciliation else { return }
        page.gauge(
            "reactiond_reconcile_last_run_timestamp_seconds", "When the last look through Redis ended.",
            report.finishedAt)
        page.gauge("reactiond_reconcile_duration_seconds", "What it took.", report.duration)
        page.gauge(
            "reactiond_reconcile_verified_entities", "Entities that it compared with ClickHouse.",
            Double(report.verified))
        let labelled = report.counts.map { count in
            (labels: [(name: "type", value: count.entityType), (name: "class", value: count.name)], count: count)
        }
        page.gauges(
            "reactiond_reconcile_keys", "Entities and other keys of Redis that it found to be right, or stale.",
            labelled.filter { !$0.count.isFault }.map { ($0.labels, Double($0.count.found)) })
        page.gauges(
            "reactiond_reconcile_drift_found", "Faults that it found.",
            labelled.filter(\.count.isFault).map { ($0.labels, Double($0.count.found)) })
        page.gauges(
            "reactiond_reconcile_drift_repaired", "Faults that it repaired.",
            labelled.filter(\.count.isFault).map { ($0.labels, Double($0.count.repaired)) })
        addShards(report.shards)
    }

    private mutating func addShards(_ shards: [ReconcileReport.Shard]) {
        func each(_ value: (ReconcileReport.Shard) -> Int64?) -> [PrometheusText.Labelled] {
            shards.compactMap { shard in
                value(shard).map { ([("type", shard.entityType), ("shard", "\(shard.shard)")], Double($0)) }
            }
        }
        page.gauges(
            "reactiond_shard_regular_entities", "Entities of which Redis keeps everybody, as last looked through.",
            each { $0.regularEntities })
        page.gauges(
            "reactiond_shard_viral_entities", "Entities of which Redis keeps counts and a sample.",
            each { $0.viralEntities })
        page.gauges("reactiond_shard_entity_bytes", "Memory of all keys of entities.", each { $0.entityBytes })
        page.gauges("reactiond_shard_user_maps", "Users of whom Redis keeps a map.", each { $0.userMaps })
        page.gauges("reactiond_shard_user_map_bytes", "Memory of their maps.", each { $0.userMapBytes })
    }

    private mutating func addPhases() {
        page.gauges(
            "reactiond_phase", "1 for the phase that an entity type is in.",
            values.phases.sorted { $0.key < $1.key }.map { ([("type", $0.key), ("phase", $0.value)], 1) })
        page.gauges(
            "reactiond_conditions_unmet",
            "What an entity type that is to advance by itself lacks for its next phase, looked at every minute.",
            values.unmetConditions.sorted { $0.key < $1.key }.map { ([("type", $0.key)], Double($0.value)) })
    }
}
