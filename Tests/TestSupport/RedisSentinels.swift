import Foundation

/// A master and a replica, watched by three sentinels.
public final class RedisSentinels: RedisDeployment {
    public static let masterName = "reactions"

    public let servers: [RedisServer]
    public let sentinels: [RedisServer]
    public var url: String {
        "redis-sentinel://" + sentinels.map { "127.0.0.1:\($0.port)" }.joined(separator: ",")
            + "/\(Self.masterName)?db=0"
    }

    public static let shared = Shared { try await RedisSentinels.start() }

    /// - Parameters:
    ///   - configuration: of the two servers.
    ///   - password: of the two servers.
    ///   - sentinelPassword: of the sentinels.
    ///   - downAfter: for how long a master is silent before the sentinels replace it. One that a busy machine keeps from answering for so
    ///     long is replaced, too, so it is short only where a test waits for it.
    public static func start(
        configuration: [String] = [], password: String? = nil, sentinelConfiguration: [String] = [],
        sentinelPassword: String? = nil, downAfter: Duration = .seconds(60)
    ) async throws -> RedisSentinels {
        let secrets = password.map { ["masterauth \($0)"] } ?? []
        let master = try await RedisServer.start(configuration: configuration + secrets, password: password)
        let replica = try await RedisServer.start(
            configuration: configuration + secrets + [
                "replicaof 127.0.0.1 \(master.port)", "repl-diskless-sync-delay 0",
            ],
            password: password)
        var sentinels: [RedisServer] = []
        for _ in 0..<3 {
            var lines =
                sentinelConfiguration + [
                    "sentinel monitor \(masterName) 127.0.0.1 \(master.port) 2",
                    "sentinel down-after-milliseconds \(masterName) \(downAfter.components.seconds * 1000)",
                    "sentinel failover-timeout \(masterName) 3000",
                ]
            if let password { lines.append("sentinel auth-pass \(masterName) \(password)") }
            if let sentinelPassword { lines.append("sentinel sentinel-pass \(sentinelPassword)") }
            sentinels.append(try await RedisServer.startSentinel(configuration: lines, password: sentinelPassword))
        }
        let deployment = RedisSentinels(servers: [master, replica], sentinels: sentinels)
        try await deployment.watched()
        return deployment
    }

    private init(servers: [RedisServer], sentinels: [RedisServer]) {
        self.servers = servers
        self.sentinels = sentinels
    }

    /// Waits until the sentinels know of each other and of the replica, and the replica is in step.
    public func watched() async throws {
        try await eventually("the sentinels know each other") {
            try sentinels.allSatisfy { sentinel in
                let reply = try sentinel.connect().command("SENTINEL", "MASTER", Self.masterName)
                guard let fields = reply.array?.compactMap(\.string) else { return false }
                let pairs = stride(from: 0, to: fields.count - 1, by: 2).map { (fields[$0], fields[$0 + 1]) }
                let values = Dictionary(pairs, uniquingKeysWith: { $1 })
                return values["num-other-sentinels"] == "2" && values["num-slaves"] == "1"
                    && values["flags"] == "master"
            }
        }
        try await eventually("the replica is in step") {
            try master().connect().command("INFO", "replication").string?.contains("state=online") == true
        }
    }

    /// The server that says it is the master now.
    public func master() throws -> RedisServer {
        for server in servers where server.process.isRunning {
            if try server.connect().command("ROLE").array?.first?.string == "master" { return server }
        }
        throw TestSupportError("there is no master")
    }

    public func command(_ arguments: [String]) throws -> RedisReply { try master().connect().command(arguments) }

    /// Has the sentinels make the replica the master, and waits until all of them say so. The old one becomes its replica.
    public func failOver() async throws {
        let old = try master()
        let other = servers.first { $0 !== old }
        // A replica that has just come is not good enough until the sentinel has heard of it again.
        try await eventually("the sentinel begins the failover") {
            try sentinels[0].connect().command("SENTINEL", "FAILOVER", Self.masterName) == .string("OK")
        }
        try await promoted(other)
    }

    /// Waits until all sentinels name this server.
    public func promoted(_ server: RedisServer?) async throws {
        try await eventually("the sentinels name the new master") {
            try sentinels.allSatisfy { sentinel in
                try sentinel.connect().command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self.masterName).array?.last?
                    .string == server.map { "\($0.port)" }
            }
        }
    }
}
