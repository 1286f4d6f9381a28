import ClickHouseStore
import Pipeline
import ReactionAgent
import ReactionModel
import TestSupport
import Testing

/// The engines that every promise of the sink is tested against.
enum Engine: String, CaseIterable, CustomTestStringConvertible {
    case server = "ClickHouse 18.16"
    case gateway = "ClickHouse 26.9 (chDB)"
    case cluster = "ClickHouse 18.16, two shards of two replicas"

    /// Servers alone.
    static let single: [Engine] = [.server, .gateway]

    var testDescription: String { rawValue }

    /// One for all tests of the process; each test has a database of its own.
    func endpoint() async throws -> any ClickHouseEndpoint {
        switch self {
        case .server: try await ClickHouseServer.shared.value
        case .gateway: try await ChdbServer.shared.value
        case .cluster: try await ClickHouseCluster.shared.value
        }
    }
}

/// A database with the mirror's tables, and sinks that write to it.
struct Fixture {
    let endpoint: any ClickHouseEndpoint
    let database: String
    let settings: ClickHouseSettings
    let sink: ClickHouseSink

    static let image = EntityType(
        typeID: 1, name: "Image", mode: .multi, phase: .native,
        kinds: [
            Kind(name: "Like", flag: 1), Kind(name: "Heart", flag: 2), Kind(name: "Laugh", flag: 4),
            Kind(name: "Cry", flag: 8),
        ], userMapKey: template("reactions:<user>", "<user>"),
        entityKey: template("image:<shard>:<entity>", "<entity>"),
        shardCount: 100, epoch: 0)
    static let post = EntityType(
        typeID: 2, name: "Post's \\ own", mode: .exclusive, phase: .native, kinds: [Kind(name: "Like", flag: 1)],
        userMapKey: template("user:<shard>:<user>", "<user>"), entityKey: template("post:<shard>:<entity>", "<entity>"),
        shardCount: 100, epoch: 0)
    static let catalog: [Int16: EntityType] = [1: image, 2: post]

    private static func template(_ text: String, _ required: String) -> KeyTemplate {
        do { return try KeyTemplate(text, required: required) } catch { fatalError("\(text): \(error.rawValue)") }
    }

    init(_ engine: Engine) async throws {
        try await self.init(engine.endpoint())
    }

    init(_ endpoint: any ClickHouseEndpoint) async throws {
        self.endpoint = endpoint
        database = uniqueName()
        settings = try ClickHouseSettings(
            url: endpoint.url, database: database, user: endpoint.user, password: endpoint.password)
        if let cluster = endpoint.cluster {
            _ = try ClickHouseSchema.create(settings, cluster: cluster)
        } else {
            _ = try ClickHouseSchema.create(settings)
        }
        sink = ClickHouseSink(settings)
    }

    /// A sink that goes through the proxy.
    func sink(through proxy: FaultProxy, requestTimeout: Duration = .seconds(30)) throws -> ClickHouseSink {
        ClickHouseSink(
            try ClickHouseSettings(
                url: "http://127.0.0.1:\(proxy.port)", database: database, user: endpoint.user,
                password: endpoint.password, requestTimeout: requestTimeout))
    }

    var proxy: FaultProxy {
        get throws { try FaultProxy(target: UInt16(endpoint.url.split(separator: ":").last ?? "") ?? 0) }
    }

    func query(_ sql: String) throws -> [[String]] {
        try endpoint.query(sql, database: database, settings: settings(of: .reads)).split(separator: "\n").map { line in
            line.split(separator: "\t", omittingEmptySubsequences: false).map { String($0) }
        }
    }

    /// Something behind the mirror's back, done when it returns. `{table}` is the table that has the rows.
    func execute(_ sql: String, _ table: MirrorTable) throws {
        let target = endpoint.cluster.map { "\(database).\(table)_local ON CLUSTER \($0)" } ?? table.rawValue
        try endpoint.query(sql.replacing("{table}", with: target), database: database, settings: settings(of: .writes))
    }

    /// Rows of a cluster's table, from all shards or those of one server.
    func delete(_ condition: String, from table: MirrorTable, at server: ClickHouseServer? = nil) throws {
        if let server {
            try server.query("ALTER TABLE \(table)_local DELETE WHERE \(condition)", database: database)
        } else {
            try execute("ALTER TABLE {table} DELETE WHERE \(condition)", table)
        }
        try endpoint.query(table.insertBlanks(partition: 0), database: database, settings: settings(of: .writes))
    }

    /// The rows of a table once more.
    func double(_ table: MirrorTable) throws {
        try endpoint.query(
            "INSERT INTO \(table) SELECT * FROM \(table)", database: database, settings: settings(of: .writes))
    }

    private enum Purpose { case reads, writes }

    private func settings(of purpose: Purpose) -> [String: String] {
        guard endpoint.cluster != nil else {
            return purpose == .writes && endpoint.engine == "26.9" ? ["deduplicate_insert_select": "disable"] : [:]
        }
        var settings = Dictionary(uniqueKeysWithValues: MirrorCluster.readSettings.map { ($0.name, $0.value) })
        if purpose == .writes {
            settings.merge(
                ["insert_distributed_sync": "1", "insert_quorum": "2", "insert_deduplicate": "0"]) { $1 }
        }
        return settings
    }

    func count(_ table: String) throws -> Int {
        Int(try query("SELECT count() FROM \(table) WHERE entityType != ''").first?.first ?? "") ?? -1
    }

    /// The rows of the three tables, in the order in which they are inserted.
    var counts: [Int] {
        get throws { try ["reactionsByEntity", "reactionDeltas", "entityMetricEvents"].map { try count($0) } }
    }

    /// The sum of the deltas and the sum of the changes, per type, entity and kind, are the same.
    func expectDeltasAgree(sourceLocation: SourceLocation = #_sourceLocation) throws {
        let groups =
            "GROUP BY entityType, entityId, metricType HAVING total != 0 ORDER BY entityType, entityId, metricType"
        let deltas = try query(
            "SELECT entityType, entityId, metricType, sum(delta) AS total FROM reactionDeltas \(groups)")
        let changes = try query(
            "SELECT entityType, entityId, metricType, sum(metricValue) AS total FROM entityMetricEvents \(groups)")
        #expect(deltas == changes, sourceLocation: sourceLocation)
    }
}

extension Event {
    /// 2026-01-01 00:00:00.123456 UTC.
    static let epoch: Int64 = 1_767_225_600_123_456

    static func change(
        _ version: Int64, user: Int64 = 7, entity: Int64 = 42, set: Int32 = 0, clear: Int32 = 0, type: Int16 = 1
    ) -> Event {
        Event(
            version: Version(rawValue: version), typeID: type, userID: user, entityID: entity, setMask: set,
            clearMask: clear, createdAt: epoch + version % 1_000_000_000 * 1_000_000, writtenAt: epoch)
    }

    static func gone(_ version: Int64, user: Int64? = nil, entity: Int64? = nil, type: Int16 = 1) -> Event {
        Event(
            version: Version(rawValue: version), scope: user == nil ? .entity : .user, typeID: type, userID: user ?? 0,
            entityID: entity ?? 0, setMask: 0, clearMask: 0, createdAt: epoch + version % 1_000_000_000 * 1_000_000,
            writtenAt: epoch)
    }

    static func truncation(_ version: Int64, type: Int16 = 1) -> Event {
        Event(
            version: Version(rawValue: version), scope: .type, typeID: type, userID: 0, entityID: 0, setMask: 0,
            clearMask: 0, createdAt: epoch, writtenAt: epoch)
    }
}

extension Sink {
    /// As after a crash: somebody may have tried it before.
    @discardableResult
    func insert(_ chunk: Chunk, catalog: [Int16: EntityType]) async throws(SinkError) -> MirroredRows? {
        try await insert(chunk, catalog: catalog, isFirst: false)
    }
}

extension Chunk {
    init(_ batch: Int64, part: Int32 = 0, _ events: [Event]) {
        self.init(batch: BatchNumber(rawValue: batch), part: part, events: events)
    }

    /// 100 events by 100 users on 10 entities, of two types; 130 changes of kinds.
    static func hundred(batch: Int64 = 1, part: Int32 = 0) -> Chunk {
        Chunk(
            batch, part: part,
            (0..<100).map { (index: Int64) in
                let version = batch << 20 + Int64(part) + index + 1
                return index < 60
                    ? .change(version, user: index, entity: index % 10, set: index < 30 ? 3 : 1)
                    : .change(version, user: index, entity: index % 10, set: 1, type: 2)
            })
    }

    static let hundredCounts = [100, 30, 130]
}
