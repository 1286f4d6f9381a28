import Glibc
import Synchronization

/// Masters of a Redis Cluster on the loopback interface, without replicas; each has a third of the slots.
public final class RedisCluster: RedisDeployment {
    public let servers: [RedisServer]
    private let configuration: [String]
    public var url: String {
        "redis://" + servers.map { "127.0.0.1:\($0.port)" }.joined(separator: ",")
    }

    public static let shared = Shared { try await RedisCluster.start() }
    private static let slots = [0...5460, 5461...10922, 10923...16383]

    /// - Parameters:
    ///   - configuration: of each server.
    ///   - password: of the default user.
    ///   - nodeTimeout: after which a server that is silent is down for the others, and its replica takes over. A server that a busy
    ///     machine keeps from answering for so long is, too, so it is short only where a test waits for it.
    public static func start(
        configuration: [String] = [], password: String? = nil, nodeTimeout: Duration = .seconds(60)
    ) async throws -> RedisCluster {
        let configuration = configuration + ["cluster-node-timeout \(nodeTimeout.components.seconds * 1000)"]
        var servers: [RedisServer] = []
        for _ in slots { servers.append(try await startServer(configuration, password: password)) }
        let cluster = RedisCluster(servers: servers, configuration: configuration)
        try await cluster.form()
        return cluster
    }

    private init(servers: [RedisServer], configuration: [String]) {
        self.servers = servers
        self.configuration = configuration
    }

    private static func startServer(_ configuration: [String], password: String? = nil) async throws -> RedisServer {
        try await RedisServer.start(
            configuration: [
                "cluster-enabled yes", "cluster-port \(try FreePort.next())",
                // What is on the servers that are left is served.
                "cluster-require-full-coverage no", "repl-diskless-sync-delay 0",
                // A replica whose first election fails on a busy machine tries again, however long ago it heard of its master.
                "cluster-replica-validity-factor 0",
            ] + configuration, password: password)
    }

    /// Starts a replica, of a cluster without a password, and waits until it is in step.
    public func addReplica(of master: RedisServer) async throws -> RedisServer {
        let replica = try await Self.startServer(configuration)
        let redis = try replica.connect()
        try redis.command("CLUSTER", "MEET", "127.0.0.1", "\(master.port)", "\(try clusterPort(of: master))")
        let id = try id(of: master)
        try await eventually("the replica replicates") {
            try redis.command("CLUSTER", "REPLICATE", id) == .string("OK")
        }
        // Who is only being introduced is forgotten if that takes too long, and nobody introduces it again when the master is gone.
        try await eventually("the replica is in step, and everybody knows everybody") {
            try master.connect().command("INFO", "replication").string?.contains("state=online") == true
                && (servers + [replica]).allSatisfy { server in
                    guard let nodes = try? server.connect().command("CLUSTER", "NODES").string else { return false }
                    return !nodes.contains("handshake")
                        && nodes.split(separator: "\n").contains {
                            $0.contains(":\(replica.port)@") && $0.contains("slave \(id) ")
                        }
                        && servers.allSatisfy { nodes.contains(":\($0.port)@") }
                }
        }
        return replica
    }

    private func form() async throws {
        for (index, server) in servers.enumerated() {
            let redis = try server.connect()
            let range = Self.slots[index]
            try redis.command("CLUSTER", "SET-CONFIG-EPOCH", "\(index + 1)")
            try redis.command("CLUSTER", "ADDSLOTSRANGE", "\(range.lowerBound)", "\(range.upperBound)")
        }
        let first = try servers[0].connect()
        for server in servers.dropFirst() {
            try first.command("CLUSTER", "MEET", "127.0.0.1", "\(server.port)", "\(try clusterPort(of: server))")
        }
        try await whole()
    }

    private func clusterPort(of server: RedisServer) throws -> String {
        try server.connect().command("CONFIG", "GET", "cluster-port").array?.last?.string ?? ""
    }

    /// Waits until every server knows of all slots.
    public func whole() async throws {
        try await eventually("the cluster is whole") {
            servers.allSatisfy { server in
                guard let info = try? server.connect().command("CLUSTER", "INFO").string else { return false }
                return info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
                    && info.contains("cluster_known_nodes:\(servers.count)")
            }
        }
    }

    public func command(_ arguments: [String]) throws -> RedisReply {
        var server = try owner(of: arguments[1])
        for _ in 0..<20 {
            let redis = try server.connect()
            let reply = try redis.command(arguments)
            guard case .error(let text) = reply, let place = text.split(separator: ":").last.flatMap({ UInt16($0) }),
                text.hasPrefix("MOVED") || text.hasPrefix("ASK"), let next = servers.first(where: { $0.port == place })
            else { return reply }
            guard text.hasPrefix("ASK") else {
                server = next
                continue
            }
            let other = try next.connect()
            try other.command("ASKING")
            return try other.command(arguments)
        }
        throw TestSupportError("the cluster redirects \(arguments[0]) in circles")
    }

    public func slot(of key: String) throws -> Int {
        Int(try servers[0].connect().command("CLUSTER", "KEYSLOT", key).integer ?? 0)
    }

    /// The server that has the slot of a key, by what the servers themselves say.
    public func owner(of key: String) throws -> RedisServer {
        for server in servers where server.process.isRunning {
            let reply = try server.connect().command("EXISTS", key)
            guard case .error(let text) = reply else { return server }
            guard text.hasPrefix("ASK") else { continue }
            return server
        }
        throw TestSupportError("nobody has the slot of \(key)")
    }

    // MARK: Moving slots

    /// Begins to move a slot; keys go by `moveKeys`, and `finishMove` ends it.
    public func beginMove(of slot: Int, from source: RedisServer, to target: RedisServer) throws {
        try expectOK(target, "CLUSTER", "SETSLOT", "\(slot)", "IMPORTING", try id(of: source))
        try expectOK(source, "CLUSTER", "SETSLOT", "\(slot)", "MIGRATING", try id(of: target))
    }

    /// Moves up to `count` keys of the slot, all of them by default.
    public func moveKeys(of slot: Int, from source: RedisServer, to target: RedisServer, count: Int = 1_000_000) throws
    {
        let redis = try source.connect()
        let keys =
            try redis.command("CLUSTER", "GETKEYSINSLOT", "\(slot)", "\(count)").array?.compactMap(\.string) ?? []
        guard !keys.isEmpty else { return }
        let reply = try redis.command(
            ["MIGRATE", "127.0.0.1", "\(target.port)", "", "0", "5000", "KEYS"] + keys)
        guard reply == .string("OK") else { throw TestSupportError("MIGRATE: \(reply)") }
    }

    /// Ends a move, and waits until the servers agree on whose word is the newest. Else what one of them has said before could count for
    /// more than the next move, and a slot be nobody's.
    public func finishMove(of slot: Int, to target: RedisServer) throws {
        let id = try id(of: target)
        try expectOK(target, "CLUSTER", "SETSLOT", "\(slot)", "NODE", id)
        for server in servers where server !== target && server.process.isRunning {
            try expectOK(server, "CLUSTER", "SETSLOT", "\(slot)", "NODE", id)
        }
        let start = ContinuousClock.now
        while try !agree() {
            guard ContinuousClock.now - start < .seconds(20) else { throw TestSupportError("the servers do not agree") }
            usleep(2_000)
        }
    }

    /// Whether all servers know the same epoch of each master, and no two masters have the same one.
    private func agree() throws -> Bool {
        let views = try servers.filter { $0.process.isRunning }.map { server in
            let lines = try server.connect().command("CLUSTER", "NODES").string?.split(separator: "\n") ?? []
            let fields = lines.map { $0.split(separator: " ") }.filter { $0.count > 6 && $0[2].contains("master") }
            return Dictionary(fields.map { ($0[0], $0[6]) }, uniquingKeysWith: { $1 })
        }
        return views.allSatisfy { $0 == views.first && Set($0.values).count == $0.count }
    }

    public func move(_ slot: Int, from source: RedisServer, to target: RedisServer) throws {
        try beginMove(of: slot, from: source, to: target)
        try moveKeys(of: slot, from: source, to: target)
        try finishMove(of: slot, to: target)
    }

    private func id(of server: RedisServer) throws -> String {
        try server.connect().command("CLUSTER", "MYID").string ?? ""
    }

    private func expectOK(_ server: RedisServer, _ arguments: String...) throws {
        let reply = try server.connect().command(arguments)
        guard reply == .string("OK") else { throw TestSupportError("\(arguments.joined(separator: " ")): \(reply)") }
    }
}
