/// A cluster of ClickHouse servers over which the mirror's tables are spread.
///
/// Each of the three tables is a `Distributed` one, which everything is read from and inserted into, over a replicated one of the same
/// name with `_local`, which has a shard's rows. What only the owner of rows can do (merge, delete) is told to those, ON CLUSTER.
///
/// One server can take a block whole or not at all; several cannot. So here a chunk is sent again, as the same bytes, until each shard has
/// its block: a shard that has it knows the block's hash, and drops it. Nothing else keeps attempts apart: a query id is known to
/// one server only.
///
/// What is confirmed is on a majority of a shard's replicas (`insert_quorum`), and a replica that has not got all of that refuses
/// to answer (`select_sequential_consistency`): what is below the floor is in every answer, whoever gives it. ClickHouse looks for that by the
/// last part of each partition that reached its quorum, and therefore neither merges that part nor deletes rows in it. Who wants rows
/// merged or deleted has to put others behind them: *blanks*, which are of no entity type and so in no answer.
public struct MirrorCluster: Equatable, Sendable {
    /// What the tables keep the shard's rows in.
    public static let localSuffix = "_local"
    /// Blocks whose hashes a shard remembers, per table, and for how many seconds: a chunk is resent long before as many others were sent.
    static let deduplicationSeconds = 604_800

    public let name: String
    /// Replicas that confirm a block before it counts; 1 if no shard has several.
    public let quorum: Int

    /// Nil unless it is a name that needs no quoting in paths and engine arguments.
    public init?(name: String, replicas: Int = 1) {
        let isPlain = name.utf8.allSatisfy {
            switch $0 {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"), UInt8(ascii: "."):
                true
            default: false
            }
        }
        guard isPlain, !name.isEmpty else { return nil }
        self.name = name
        quorum = max(replicas, 1) / 2 + 1
    }

    // MARK: Finding out

    /// The mirror's tables that are spread over a cluster: table, and the engine's arguments without quotes.
    public static func query(database: String) -> String {
        """
        SELECT name, replaceAll(engine_full, '\\'', '') FROM system.tables WHERE database = \(SQL.quoted(database)) \
        AND engine = 'Distributed' AND name IN (\(SQL.list(MirrorTable.allCases.map(\.rawValue))))
        """
    }

    /// - Parameter tables: the answer to `query`; nil unless the three tables are spread over one cluster.
    public static func name(_ tables: [[String]]) -> String? {
        let names = Set(
            tables.map { row -> Substring? in
                guard row.count == 2, row[1].hasPrefix("Distributed(") else { return nil }
                return row[1].dropFirst("Distributed(".count).prefix { $0 != "," }
            })
        guard tables.count == MirrorTable.allCases.count, names.count == 1, let name = names.first else { return nil }
        return name.map { String($0) }
    }

    /// One number: the replicas of the shard that has the most; 0 for a cluster that the server does not know.
    public static func replicasQuery(_ name: String) -> String {
        "SELECT max(replica_num) FROM system.clusters WHERE cluster = \(SQL.quoted(name))"
    }

    /// One column: the clusters that the server knows.
    public static let clustersQuery = "SELECT DISTINCT cluster FROM system.clusters ORDER BY cluster"

    /// One column: what is to be substituted in the tables' paths (`MirrorTable.create`).
    public static let macrosQuery = "SELECT macro FROM system.macros WHERE macro IN ('shard', 'replica') ORDER BY macro"
    public static let macros = [["replica"], ["shard"]]

    /// One number: when the server that started last did, in unix seconds.
    public var startedAtQuery: String {
        "SELECT max(toInt64(toUInt32(now())) - toInt64(uptime())) FROM \(all("system.one"))"
    }

    // MARK: Settings

    /// Of every question to the mirror. Every server since 18.16 knows them, and one server alone takes no notice of them.
    ///
    /// Whoever asks, asks the same replicas first: those that were given the rows, and need not wait for others.
    public static let readSettings: [(name: String, value: String)] = [
        ("select_sequential_consistency", "1"), ("skip_unavailable_shards", "0"), ("load_balancing", "in_order"),
        ("prefer_localhost_replica", "0"),
    ]

    /// Of every request of the agent.
    ///
    /// - Parameter seconds: that the request may take. A quorum or a replica that is away ends it in half of that, with an error.
    public func settings(_ abilities: ServerAbilities, within seconds: Int64) -> [(name: String, value: String)] {
        var settings = Self.readSettings
        settings += [
            ("insert_distributed_sync", "1"), ("insert_quorum", String(quorum > 1 ? quorum : 0)),
            ("insert_quorum_timeout", String(max(seconds, 2) &* 500)),
            ("distributed_ddl_task_timeout", String(max(seconds / 2, 1))),
        ]
        // Inserts that wait for their quorums side by side would be seen by nobody who asks for all that is confirmed.
        if abilities.knows(setting: "insert_quorum_parallel") { settings.append(("insert_quorum_parallel", "0")) }
        return settings
    }

    /// Whether a partition's last part stays as it is until there is another one.
    public var needsBlanks: Bool { quorum > 1 }

    /// One column: the partitions of a table, on one replica of each shard.
    public func partitionsQuery(_ table: MirrorTable, database: String) -> String {
        """
        SELECT DISTINCT toInt64(partition) FROM \(table.about("system.parts", self, database: database)) AND active \
        ORDER BY toInt64(partition)
        """
    }

    // MARK: Replicas

    /// One column, of each shard: where ZooKeeper has what the replicas of its table share.
    public func sharedPathsQuery(_ table: MirrorTable, database: String) -> String {
        "SELECT zookeeper_path FROM \(table.about("system.replicas", self, database: database))"
    }

    /// One column: the deletions that were ordered, of those that ZooKeeper still has. Their names ascend.
    public static func deletionsQuery(_ path: String) -> String {
        "SELECT name FROM system.zookeeper WHERE path = \(SQL.quoted(path + "/mutations"))"
    }

    /// One column: the replicas, those that are away among them.
    public static func replicasQuery(at path: String) -> String {
        "SELECT name FROM system.zookeeper WHERE path = \(SQL.quoted(path + "/replicas"))"
    }

    /// One column: the last deletion that the replica has carried out, with all before it; empty for none.
    public static func lastDeletionQuery(of replica: String, at path: String) -> String {
        """
        SELECT value FROM system.zookeeper WHERE path = \(SQL.quoted("\(path)/replicas/\(replica)")) AND name = 'mutation_pointer'
        """
    }

    // MARK: Pieces of statements

    var clause: String { "ON CLUSTER " + SQL.identifier(name) }

    /// A system table's rows of one replica of each shard.
    func all(_ table: String) -> String { "cluster(\(SQL.quoted(name)), \(table))" }
}

extension MirrorTable {
    /// The table that has the rows, for statements that move them: `OPTIMIZE TABLE \(target) …`, `ALTER TABLE \(target) …`.
    func target(_ cluster: MirrorCluster?, database: String) -> String {
        guard let cluster else { return rawValue }
        return "\(SQL.identifier(database)).\(localName(cluster)) \(cluster.clause)"
    }

    func localName(_ cluster: MirrorCluster?) -> String {
        cluster == nil ? rawValue : rawValue + MirrorCluster.localSuffix
    }

    /// Rows for every shard that are nobody's, in one partition. They replace each other when they are merged.
    public func insertBlanks(partition: Int64) -> String {
        let values = columns.map { column in
            switch column {
            case "entityType", "metricType": "''"
            case "entityId", "userId": "-1 - toInt64(number)"
            case "createdAt": "toDateTime(0, 'UTC')"
            case "metricValue": "toInt8(0)"
            case "setMask", "clearMask": "toInt32(0)"
            case "batch": "toInt64(\(partition &* Self.batchesPerPartition))"
            case "part": "toInt32(\(Self.blankPart))"
            default: "toInt64(0)"
            }
        }
        return """
            INSERT INTO \(rawValue) (\(columns.joined(separator: ", "))) \
            SELECT \(values.joined(separator: ", ")) FROM system.numbers LIMIT \(Self.blanks)
            """
    }

    /// So many that each of a hundred shards gets some.
    private static let blanks = 1_024
    /// No chunk's.
    static let blankPart: Int32 = -1

    /// `OPTIMIZE` of a partition. Beside a part that cannot be merged ClickHouse merges nothing if it is asked for the whole partition, but
    /// what it finds worth it, in any partition, if it is asked for no partition.
    func optimize(_ cluster: MirrorCluster?, database: String, partition: Int64) -> String {
        "OPTIMIZE TABLE \(target(cluster, database: database))"
            + (cluster?.needsBlanks == true ? "" : " PARTITION \(partition) FINAL")
    }

    /// A system table about the tables that have the rows, and what says which rows are this one's.
    func about(_ systemTable: String, _ cluster: MirrorCluster?, database: String) -> String {
        """
        \(cluster?.all(systemTable) ?? systemTable) \
        WHERE database = \(SQL.quoted(database)) AND table = '\(localName(cluster))'
        """
    }

    /// Which shard a row is on. A user's changes are on one shard, an entity's reactions and deltas on one: there what is asked of them
    /// is answered, and rows that were sent twice meet. Hashed, since ids may have patterns.
    var shardingKey: String {
        self == .entityMetricEvents ? "intHash64(userId)" : "intHash64(entityId)"
    }
}
