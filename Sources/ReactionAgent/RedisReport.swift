public import Pipeline
internal import PostgresSource
internal import RedisStore

/// What the servers of Redis say of themselves.
public struct RedisReport: Sendable, Equatable {
    /// Those that have keys.
    public var servers: [Server]
    public var isCluster: Bool
    /// Slots of the cluster that no server has.
    public var missingSlots: Int

    public struct Server: Sendable, Equatable {
        public var version: String
        public var maxmemoryPolicy: String
        /// Microseconds since 1970-01-01 UTC by the server's clock.
        public var time: Int64
    }

    /// Asks the servers over connections of its own.
    public static func ask(_ settings: RedisSettings) async throws(CacheError) -> RedisReport {
        try await RedisProbe().ask(settings)
    }
}

/// Keeps blocking questions off the cooperative pool.
private actor RedisProbe {
    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.redis.probe")

    func ask(_ settings: RedisSettings) throws(CacheError) -> RedisReport {
        let client = RedisClient(settings: settings)
        let isCluster = try client.isCluster()
        let (servers, missingSlots) = try client.each(Self.ask)
        return RedisReport(servers: servers, isCluster: isCluster, missingSlots: missingSlots)
    }

    private static func ask(_ connection: RedisConnection) throws(CacheError) -> RedisReport.Server {
        guard case .text(let info) = try connection.command("INFO", "server", "memory"),
            let version = RedisInfo.value(of: "redis_version", in: Array(info.utf8)[...]),
            let policy = RedisInfo.value(of: "maxmemory_policy", in: Array(info.utf8)[...])
        else { throw CacheError(message: "INFO has no version or no maxmemory policy") }
        guard case .array(let time) = try connection.command("TIME"), time.count == 2,
            case .text(let seconds) = time[0], case .text(let microseconds) = time[1],
            let seconds = Int64(seconds), let microseconds = Int64(microseconds)
        else { throw CacheError(message: "TIME has no time") }
        return RedisReport.Server(
            version: String(decoding: version, as: UTF8.self), maxmemoryPolicy: String(decoding: policy, as: UTF8.self),
            time: seconds * 1_000_000 + microseconds)
    }
}
