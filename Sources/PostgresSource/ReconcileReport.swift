/// What the last reconciliation that ended has found: the row of the view `reactions.reconcile_status`.
public struct ReconcileReport: Sendable, Equatable {
    public struct Count: Sendable, Equatable {
        public var entityType: String
        public var name: String
        public var isFault: Bool
        public var found: Int64
        public var repaired: Int64
    }

    /// What a shard of a type had in Redis when the type was last looked through: a row of the view `reactions.redis_shards`.
    public struct Shard: Sendable, Equatable {
        public var entityType: String
        public var shard: Int32
        public var regularEntities: Int64
        public var viralEntities: Int64
        /// Nil if Redis did not tell.
        public var entityBytes: Int64?
        public var userMaps: Int64
        public var userMapBytes: Int64?
    }

    /// Unix seconds.
    public var finishedAt: Double
    /// Seconds.
    public var duration: Double
    public var scanned: Int64
    public var verified: Int64
    public var counts: [Count]
    public var shards: [Shard]
}

extension ReconcileSource {
    /// Nil if there was none.
    public func report() throws(PostgresError) -> ReconcileReport? {
        let status = try query(
            """
            SELECT reconcile_run_id, extract(epoch FROM finished_at)::float8, extract(epoch FROM duration)::float8, scanned, verified
            FROM reactions.reconcile_status
            """)
        guard !status.rows.isEmpty else { return nil }
        let run: Int64 = try status.required(0, 0)
        let classes = try query(
            """
            SELECT entity_type, class, is_fault, found, repaired FROM reactions.reconcile_class WHERE reconcile_run_id = \(run)
            ORDER BY entity_type, class
            """)
        var counts: [ReconcileReport.Count] = []
        for row in classes.rows {
            counts.append(
                ReconcileReport.Count(
                    entityType: try classes.required(row, 0), name: try classes.required(row, 1),
                    isFault: classes.isTrue(row, 2), found: try classes.required(row, 3),
                    repaired: try classes.required(row, 4)))
        }
        return ReconcileReport(
            finishedAt: try status.required(0, 1), duration: try status.required(0, 2),
            scanned: try status.required(0, 3), verified: try status.required(0, 4), counts: counts,
            shards: try shards())
    }

    private func shards() throws(PostgresError) -> [ReconcileReport.Shard] {
        let result = try query(
            """
            SELECT entity_type, shard, regular_entities, viral_entities, entity_bytes, user_maps, user_map_bytes
            FROM reactions.redis_shards ORDER BY entity_type, shard
            """)
        var shards: [ReconcileReport.Shard] = []
        for row in result.rows {
            shards.append(
                ReconcileReport.Shard(
                    entityType: try result.required(row, 0), shard: try result.required(row, 1),
                    regularEntities: try result.required(row, 2), viralEntities: try result.required(row, 3),
                    entityBytes: result.value(row, 4), userMaps: try result.required(row, 5),
                    userMapBytes: result.value(row, 6)))
        }
        return shards
    }

    /// The newest run that ended, whoever has made it; nil if there was none.
    public func newestRun() throws(PostgresError) -> Int64? {
        try query("SELECT max(reconcile_run_id) FROM reactions.reconcile_run WHERE finished_at IS NOT NULL").value(0, 0)
    }
}
