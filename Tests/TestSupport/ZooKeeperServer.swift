import Glibc

/// A private server of Debian's ZooKeeper, alone, with everything it keeps in a directory of its own.
public final class ZooKeeperServer: Sendable {
    public let port: UInt16
    private let directory: TemporaryDirectory
    private let process: ServerProcess

    private static let jars = [
        "zookeeper", "zookeeper-jute", "metrics-core", "slf4j-api", "slf4j-simple", "snappy-java",
    ]

    /// Fetches its jars into .cache/zookeeper if they are not there.
    public static func start() async throws -> ZooKeeperServer {
        try await run([packageRoot + "/Tests/zookeeper/install"], within: .seconds(300))
        let server = try ZooKeeperServer(directory: TemporaryDirectory(), port: FreePort.next())
        // It listens before it serves, and makes the manager of containers when it does.
        try await server.process.waitUntil { server.process.log.contains("ContainerManager - Using checkIntervalMs") }
        return server
    }

    private init(directory: TemporaryDirectory, port: UInt16) throws {
        self.directory = directory
        self.port = port
        try directory.write(
            "zoo.cfg",
            """
            tickTime=500
            maxSessionTimeout=120000
            dataDir=\(directory.file("data"))
            clientPort=\(port)
            clientPortAddress=127.0.0.1
            admin.enableServer=false
            4lw.commands.whitelist=mntr
            """)
        let path = Self.jars.map { "\(packageRoot)/.cache/zookeeper/usr/share/java/\($0).jar" }.joined(separator: ":")
        process = try ServerProcess(
            [
                "/usr/bin/java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-cp",
                path,
                "org.apache.zookeeper.server.quorum.QuorumPeerMain", directory.file("zoo.cfg"),
            ], logPath: directory.file("log"))
    }

    /// Nodes that clients watch, each counted once for each client.
    func watches() async throws -> Int {
        let answer = try await run(["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/\(port); printf mntr >&3; cat <&3"])
        guard let count = answer.firstMatch(of: /zk_watch_count\t(\d+)/) else { throw TestSupportError(answer) }
        return Int(count.1) ?? 0
    }

    deinit { process.stop(SIGKILL) }
}
