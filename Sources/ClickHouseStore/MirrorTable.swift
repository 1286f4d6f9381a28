/// The three tables of the mirror, in the order in which a chunk is inserted: its rows in `entityMetricEvents` mean that it is complete.
public enum MirrorTable: String, CaseIterable, Sendable {
    /// One row per event: who reacted to an entity, newest first.
    case reactionsByEntity
    /// The folded change of each count by each chunk.
    case reactionDeltas
    /// One row per changed kind, +1 or -1.
    case entityMetricEvents

    /// Batches per partition. Large, since a user's query looks into every partition: at twenty batches a second it fills in ten days.
    /// A power of two, so that a generation begins a partition.
    public static let batchesPerPartition: Int64 = 1 << 24

    /// Blocks whose tokens the server remembers, per table. A chunk is resent long before as many others were sent.
    static let deduplicationWindow = 1_000

    /// The columns in the order of the RowBinary rows.
    public var columns: [String] {
        switch self {
        case .entityMetricEvents:
            [
                "entityType", "entityId", "userId", "metricType", "metricValue", "createdAt", "version", "batch",
                "part",
            ]
        case .reactionsByEntity:
            ["entityType", "entityId", "userId", "setMask", "clearMask", "createdAt", "version", "batch", "part"]
        case .reactionDeltas:
            ["entityType", "entityId", "metricType", "delta", "batch", "part"]
        }
    }

    /// The sorting key. Rows that agree in it are the same row, sent twice.
    ///
    /// `userId` ends the key of `reactionsByEntity` because the rows of a truncated table share one version. `part` ends that of
    /// `reactionDeltas`, so that the chunks of a batch do not replace each other's deltas.
    var key: [String] {
        switch self {
        case .entityMetricEvents: ["entityType", "userId", "entityId", "metricType", "version"]
        case .reactionsByEntity: ["entityType", "entityId", "version", "userId"]
        case .reactionDeltas: ["entityType", "entityId", "metricType", "batch", "part"]
        }
    }

    /// What is summed, with the number of rows, to see whether all of a chunk is there.
    var checksumColumn: String {
        self == .reactionDeltas ? "delta" : "version"
    }

    public func insert() -> String {
        "INSERT INTO \(rawValue) (\(columns.joined(separator: ", "))) FORMAT RowBinary"
    }

    /// The table of the connection's database.
    public func create(_ abilities: ServerAbilities) -> String {
        var settings: [String] = []
        if abilities.hasDeduplicationToken {
            settings.append("non_replicated_deduplication_window = \(Self.deduplicationWindow)")
        }
        return """
            CREATE TABLE IF NOT EXISTS \(rawValue)
            (
            \(columnList(abilities))
            )
            ENGINE = ReplacingMergeTree
            \(storage(abilities, settings))
            """
    }

    /// The table with a shard's rows, on every server of the cluster. Its path in ZooKeeper is made of the server's macros.
    public func createLocal(on cluster: MirrorCluster, database: String, _ abilities: ServerAbilities) -> String {
        let path = "/clickhouse/tables/{shard}/\(database)/\(localName(cluster))"
        let settings = [
            ("replicated_deduplication_window", Int64(Self.deduplicationWindow)),
            ("replicated_deduplication_window_seconds", Int64(MirrorCluster.deduplicationSeconds)),
        ].map { "\($0) = \($1)" }
        return """
            CREATE TABLE IF NOT EXISTS \(target(cluster, database: database))
            (
            \(columnList(abilities.onCluster))
            )
            ENGINE = ReplicatedReplacingMergeTree(\(SQL.quoted(path)), '{replica}')
            \(storage(abilities, settings))
            """
    }

    /// The table by which all shards are read and written.
    public func createDistributed(on cluster: MirrorCluster, database: String, _ abilities: ServerAbilities) -> String {
        """
        CREATE TABLE IF NOT EXISTS \(SQL.identifier(database)).\(rawValue) \(cluster.clause)
        (
        \(columnList(abilities.onCluster.withoutStorage))
        )
        ENGINE = Distributed(\(SQL.quoted(cluster.name)), \(SQL.quoted(database)), '\(localName(cluster))', \(shardingKey))
        """
    }

    private func columnList(_ abilities: ServerAbilities) -> String {
        columns.map { "    \($0) \(type(of: $0, abilities))" }.joined(separator: ",\n")
    }

    private func storage(_ abilities: ServerAbilities, _ tableSettings: [String]) -> String {
        var settings = tableSettings
        for setting in ["fsync_after_insert", "fsync_part_directory"] where abilities.knows(tableSetting: setting) {
            settings.append(setting + " = 1")
        }
        return """
            PARTITION BY intDiv(batch, \(Self.batchesPerPartition))
            ORDER BY (\(key.joined(separator: ", ")))
            """ + (settings.isEmpty ? "" : "\nSETTINGS " + settings.joined(separator: ", "))
    }

    /// `createdAt` is exact where the server can hold it; its form is read back before rows are made (`MirrorLayout`).
    private func type(of column: String, _ abilities: ServerAbilities) -> String {
        func with(_ codec: String) -> String { abilities.hasCodecs ? " CODEC(\(codec))" : "" }
        return switch column {
        case "entityType", "metricType": abilities.hasLowCardinality ? "LowCardinality(String)" : "String"
        case "createdAt" where abilities.hasDateTime64: "DateTime64(6, 'UTC')" + with("Delta, ZSTD(1)")
        case "createdAt": "DateTime('UTC')" + with("Delta, ZSTD(1)")
        case "metricValue": "Int8"
        case "setMask", "clearMask", "part": "Int32"
        case "delta": "Int64" + with("ZSTD(1)")
        default: "Int64" + with("Delta, ZSTD(1)")
        }
    }

    /// Settings under which the tables are created.
    public static func createSettings(_ abilities: ServerAbilities) -> [(name: String, value: String)] {
        let name = "allow_experimental_low_cardinality_type"
        return abilities.knows(setting: name) ? [(name, "1")] : []
    }

    public static func createDatabase(_ name: String, on cluster: MirrorCluster? = nil) -> String {
        "CREATE DATABASE IF NOT EXISTS " + quoted(name) + (cluster.map { " " + $0.clause } ?? "")
    }

    /// One row if the database exists.
    public static func databaseQuery(_ name: String) -> String {
        "SELECT name FROM system.databases WHERE name = \(SQL.quoted(name))"
    }

    /// A name as an identifier.
    public static func quoted(_ name: String) -> String { SQL.identifier(name) }

    /// Columns of the tables that exist: table, name, type.
    public static func columnsQuery(database: String) -> String {
        """
        SELECT table, name, type FROM system.columns WHERE database = \(SQL.quoted(database)) \
        AND table IN (\(SQL.list(allCases.map(\.rawValue))))
        """
    }
}
