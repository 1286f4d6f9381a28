import ClickHouseStore
public import Pipeline

/// What `reactiond init-clickhouse` does.
public enum ClickHouseSchema {
    /// The commands for a server of the newest version, to be read or run by hand.
    public static func script(database: String) -> String {
        ([MirrorTable.createDatabase(database), "USE " + MirrorTable.quoted(database)]
            + MirrorTable.allCases.map { $0.create(.newest) })
            .map { $0 + ";\n" }.joined(separator: "\n")
    }

    /// Makes the database and the tables unless they exist, checks those that do, and returns what was done, line by line.
    public static func create(_ settings: ClickHouseSettings) throws(SinkError) -> [String] {
        let client = try ClickHouseClient(settings)
        let database = settings.database
        var report: [String] = []
        let abilities = ServerAbilities(rows: try client.rows(ServerAbilities.query, inDatabase: false))

        if try client.rows(MirrorTable.databaseQuery(database), inDatabase: false).isEmpty {
            _ = try client.query(MirrorTable.createDatabase(database), inDatabase: false)
            report.append("created database \(database)")
        } else {
            report.append("database \(database) exists")
        }
        let present = Set(
            try client.rows(MirrorTable.columnsQuery(database: database), inDatabase: false).compactMap(\.first))
        for table in MirrorTable.allCases {
            if present.contains(table.rawValue) {
                report.append("table \(database).\(table.rawValue) exists")
            } else {
                _ = try client.query(table.create(abilities), settings: MirrorTable.createSettings(abilities))
                report.append("created table \(database).\(table.rawValue)")
            }
        }
        _ = try ClickHouseSession(settings)
        return report
    }
}
