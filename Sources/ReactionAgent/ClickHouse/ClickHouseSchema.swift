import ClickHouseStore
public import Pipeline

/// What `reactiond init-clickhouse` does.
public enum ClickHouseSchema {
    /// The commands for servers of the newest version, to be read or run by hand.
    ///
    /// - Parameter cluster: the cluster's name; nil for a server alone.
    public static func script(database: String, cluster: String? = nil) throws(SinkError) -> String {
        let commands: [String]
        if let cluster {
            guard let cluster = MirrorCluster(name: cluster) else { throw .clusterName }
            commands = Self.commands(cluster, database, .newest).map(\.text)
        } else {
            commands =
                [MirrorTable.createDatabase(database), "USE " + MirrorTable.quoted(database)]
                + MirrorTable.allCases.map { $0.create(.newest) }
        }
        return commands.map { $0 + ";\n" }.joined(separator: "\n")
    }

    /// What makes database and tables on the servers that do not have them yet: first where the rows are.
    private static func commands(
        _ cluster: MirrorCluster, _ database: String, _ abilities: ServerAbilities
    ) -> [(name: String, text: String)] {
        [("database \(database)", MirrorTable.createDatabase(database, on: cluster))]
            + MirrorTable.allCases.map {
                (
                    "table \(database).\($0.rawValue)\(MirrorCluster.localSuffix)",
                    $0.createLocal(on: cluster, database: database, abilities)
                )
            }
            + MirrorTable.allCases.map {
                ("table \(database).\($0.rawValue)", $0.createDistributed(on: cluster, database: database, abilities))
            }
    }

    /// The same on a cluster.
    public static func create(_ settings: ClickHouseSettings, cluster name: String) throws(SinkError) -> [String] {
        let client = try ClickHouseClient(settings)
        let database = settings.database
        guard MirrorCluster(name: name) != nil else { throw .clusterName }
        let cluster = try ClickHouseSession.cluster(name, client)
        guard try client.rows(MirrorCluster.macrosQuery, inDatabase: false) == MirrorCluster.macros else {
            throw .schema("every server of the cluster needs the macros shard and replica; this one lacks one of them")
        }
        let present = try client.rows(MirrorTable.columnsQuery(database: database), inDatabase: false)
        let spread = try client.rows(MirrorCluster.query(database: database), inDatabase: false)
        for table in Set(present.compactMap(\.first)).sorted() where !spread.contains(where: { $0.first == table }) {
            throw .schema(
                "table \(database).\(table) is one server's: rename it, or choose another database, and copy its rows afterwards"
            )
        }
        let abilities = ServerAbilities(rows: try client.rows(ServerAbilities.query, inDatabase: false))
        client.clusterSettings = cluster.settings(abilities, within: settings.requestTimeout.components.seconds)
        for command in commands(cluster, database, abilities) {
            _ = try client.query(command.text, inDatabase: false)
        }
        _ = try ClickHouseSession(settings)
        return commands(cluster, database, abilities).map { "\($0.name) is on every server of cluster \(name)" }
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

extension SinkError {
    static let clusterName = SinkError.schema(
        "a cluster's name has to be of letters, digits, underscores, hyphens and dots")
}
