/// A private cluster of Debian's ClickHouse, `reactions`: two shards of two replicas each, with a ZooKeeper. As an endpoint it is the
/// first replica of the first shard.
public final class ClickHouseCluster: ClickHouseEndpoint {
    public static let name = "reactions"
    /// The replicas of each shard.
    public let shards: [[ClickHouseServer]]
    private let zooKeeper: ZooKeeperServer

    public var servers: [ClickHouseServer] { shards.flatMap { $0 } }
    private var first: ClickHouseServer { shards[0][0] }
    public var url: String { first.url }
    public var user: String { first.user }
    public var password: String { first.password }
    public var engine: String { first.engine }
    public var cluster: String? { Self.name }

    /// One for every test that makes its own database and stops no server.
    public static let shared = Shared { try await ClickHouseCluster.start(sessionTimeout: .seconds(120)) }

    /// - Parameter sessionTimeout: after which a server that is gone, or has no processor to run on, is gone for ZooKeeper. A replica that
    ///   was killed is not active before.
    public static func start(sessionTimeout: Duration = .seconds(3)) async throws -> ClickHouseCluster {
        let zooKeeper = try await ZooKeeperServer.start()
        let ports = try (0..<4).map { _ in try FreePort.next() }
        func replica(_ port: UInt16) -> String {
            "<replica><host>127.0.0.1</host><port>\(port)</port><user>tester</user><password>secret</password></replica>"
        }
        func shard(_ ports: ArraySlice<UInt16>) -> String {
            "<shard><internal_replication>true</internal_replication>\(ports.map(replica).joined())</shard>"
        }
        // A server that is killed behind a block that ZooKeeper does not know has a part too many. If most of a table's rows are in it,
        // as in tests, it does not start unless it is allowed to throw such parts away: it fetches what counts from its shard's other one.
        func configuration(of number: Int) -> String {
            """
            <merge_tree><replicated_max_ratio_of_wrong_parts>1</replicated_max_ratio_of_wrong_parts></merge_tree>
            <zookeeper><node><host>127.0.0.1</host><port>\(zooKeeper.port)</port></node>\
            <session_timeout_ms>\(sessionTimeout.components.seconds * 1000)</session_timeout_ms></zookeeper>
            <distributed_ddl><path>/clickhouse/ddl</path></distributed_ddl>
            <interserver_http_host>127.0.0.1</interserver_http_host>
            <macros><shard>\(number / 2)</shard><replica>\(number % 2)</replica></macros>
            <remote_servers><\(name)>\(shard(ports[..<2]))\(shard(ports[2...]))</\(name)></remote_servers>
            """
        }
        let servers = try await withThrowingTaskGroup(of: (Int, ClickHouseServer).self) { group in
            for (number, port) in ports.enumerated() {
                group.addTask {
                    (number, try await ClickHouseServer.start(tcpPort: port, configuration: configuration(of: number)))
                }
            }
            return try await group.reduce(into: [:]) { $0[$1.0] = $1.1 }
        }
        // 18.16 crashes on a statement ON CLUSTER before it watches the queue of these.
        try await eventually(within: .seconds(60), "every server watches the queue") {
            try await zooKeeper.watches() >= servers.count
        }
        let inOrder = (0..<4).compactMap { servers[$0] }
        return ClickHouseCluster(zooKeeper: zooKeeper, shards: [Array(inOrder[..<2]), Array(inOrder[2...])])
    }

    private init(zooKeeper: ZooKeeperServer, shards: [[ClickHouseServer]]) {
        self.zooKeeper = zooKeeper
        self.shards = shards
    }

    public func stop() { for server in servers { server.stop() } }
    public func restart() async throws { for server in servers { try await server.restart() } }
}
