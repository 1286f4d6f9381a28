import TestSupport

/// What a reaction takes on disk: in the table with its indexes, and in all of ClickHouse's tables.
struct Storage {
    let engine: String
    let tableBytes: Double
    let mirrorBytes: Double
    var ratio: Double { mirrorBytes / tableBytes }

    /// Brings a table over and merges what is there, as a server does in the background.
    static func measure(
        postgres: PostgresServer, clickHouse: any ClickHouseEndpoint, rows: Int
    ) async throws -> Storage {
        let stack = try await Stack.make(postgres: postgres, clickHouse: clickHouse)
        let session = try stack.connect()
        try BackfillSite.makeTable(session, rows: rows)
        let agent = try stack.startAgent(Stack.withoutMatches)
        defer { agent.stop() }
        try await eventually(within: .seconds(900), "the backfill is sealed") {
            try session.value("SELECT state FROM reactions.backfill") == "sealed"
        }
        let count = Double(try session.value(#"SELECT count(*) FROM "ImageReaction""#) ?? "") ?? .nan
        let table = Double(try session.value(#"SELECT pg_total_relation_size('"ImageReaction"')"#) ?? "") ?? .nan
        for table in MirrorRows.tables {
            try clickHouse.query("OPTIMIZE TABLE \(table) FINAL", database: stack.clickHouseDatabase)
        }
        let held = try stack.clickHouseRows(
            "SELECT sum(metricValue) FROM {db}.entityMetricEvents"
        )[0][0]
        try check(Double(held) == count, "ClickHouse holds \(held) reactions instead of \(count)")
        let mirror = try stack.clickHouseRows(
            "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = '{db}' AND active")[0][0]
        return Storage(
            engine: clickHouse.engine, tableBytes: table / count, mirrorBytes: (Double(mirror) ?? .nan) / count)
    }
}
