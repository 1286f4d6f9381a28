import TestSupport

/// What Redis says of the post at the end, held against ClickHouse and the table.
struct ViralTruth {
    let site: EntitySite
    private static let type = ViralLoad.type
    private static let post = ViralLoad.post

    func check() throws {
        let table = try site.tableCounts(Self.post, of: Self.type)
        let total = table.values.reduce(0, +)
        let told = try site.functionCounts(Self.post, of: Self.type)
        try require(told == table, "counts are \(told), in the table \(table)")
        let deltas = try clickHouseCounts("reactionDeltas", "delta")
        try require(deltas == table, "the deltas are \(deltas), in the table \(table)")
        let events = try clickHouseCounts("entityMetricEvents", "metricValue")
        try require(events == table, "the events are \(events), in the table \(table)")
        for (call, expected) in [
            ("total", String(total)), ("unique_reactors", String(total)),
            ("is_viral", total >= Viral.threshold ? "t" : "f"),
        ] {
            let told = try site.session.value(
                "SELECT reactions.\(call)(\(Self.post), entity_type => '\(Self.type.name)')")
            try require(told == expected, "\(call) is \(told ?? "null") instead of \(expected)")
        }
        try checkReactors()
    }

    private func clickHouseCounts(_ table: String, _ column: String) throws -> [String: Int] {
        try site.stack.clickHouseRows(
            """
            SELECT substring(toString(metricType), 9), sum(toInt64(\(column))) AS number FROM {db}.\(table)
            WHERE entityType = '\(Self.type.name)' AND entityId = \(Self.post) GROUP BY metricType HAVING number != 0
            """
        ).reduce(into: [:]) { $0[$1[0]] = Int($1[1]) }
    }

    /// The first page: each user's newest event among the newest of the post. An event of an exclusive type sets the one kind that the
    /// user then has, or none.
    private func checkReactors() throws {
        let newest = 200_000
        let expected = try site.stack.clickHouseRows(
            """
            SELECT user, flags FROM (
                SELECT userId AS user, max(version) AS newest, argMax(setMask, version) AS flags, argMax(createdAt, version) AS at
                FROM (
                    SELECT userId, version, setMask, createdAt FROM {db}.reactionsByEntity
                    WHERE entityType = '\(Self.type.name)' AND entityId = \(Self.post) ORDER BY version DESC LIMIT \(newest)
                ) GROUP BY userId
            ) WHERE flags != 0 ORDER BY newest DESC, at DESC, user DESC LIMIT \(ViralReads.pageSize)
            """)
        let told = try site.session.query(
            """
            SELECT user_id, flags FROM reactions.reactors(
                \(Self.post), page_size => \(ViralReads.pageSize), entity_type => '\(Self.type.name)')
            """
        ).map { row in row.map { $0 ?? "" } }
        try require(told == expected, "the first page of reactors is \(told), in ClickHouse \(expected)")
    }

    private func require(_ condition: Bool, _ what: @autoclosure () -> String) throws {
        guard condition else { throw BenchmarkError("wrong answer: \(what())") }
    }
}
