import Foundation
import TestSupport

/// Servers, attached types without a reaction yet, and the agent that counts what is written.
final class EntitySite {
    let stack: Stack
    let clickHouse: ClickHouseServer
    let session: PostgresConnection
    let redis: RedisConnection
    private var agent: ServerProcess

    /// `reactions.clickhouse_user` is not set.
    private static let userOfBackends = "default"

    /// - Parameter isLarge: memory and WAL for tens of millions of rows.
    init(_ types: [CountedType], isLarge: Bool) async throws {
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"],
            configuration: [
                "fsync": "on", "full_page_writes": "on", "shared_buffers": isLarge ? "2GB" : "64MB",
                "max_wal_size": isLarge ? "8GB" : "256MB",
            ])
        clickHouse = try await ClickHouseServer.start(loggedUser: Self.userOfBackends)
        stack = try await Stack.make(
            postgres: postgres, redis: try await RedisServer.start(), clickHouse: clickHouse)
        session = try stack.connect()
        redis = try stack.redis.connect()
        for type in types { try session.execute(type.definition) }
        agent = try stack.startAgent(Self.agentSettings)
        // Proves that they are logged, before their number says anything.
        _ = try HTTP.request(
            clickHouse.url, headers: ["X-ClickHouse-User": Self.userOfBackends], body: Data("SELECT 1".utf8))
        // A server that has just started may be flushing its log already, and then does not wait for the newest entries.
        try await eventually("ClickHouse logs the requests of backends") { try loggedRequests() > 0 }
        let session = session
        try await eventually(within: .seconds(60), "the tables are brought over") {
            try session.value("SELECT bool_and(backfilled) FROM reactions.status()") == "t"
        }
    }

    deinit { agent.stop() }

    /// A minute of finished batches instead of ten: disk, at the rate of the benchmark.
    private static let agentSettings = Stack.withoutMatches + ["--set", "mirror.batch_retention=1min"]

    /// Has everything mirrored first.
    func restartAgent() async throws {
        try await stack.drained(session)
        agent.stop(SIGTERM)
        agent = try stack.startAgent(Self.agentSettings)
    }

    // MARK: Keys

    /// The keys of each entity of a type.
    func keys(of type: CountedType) throws -> [Int: [String]] {
        var keys: [Int: [String]] = [:]
        let prefix = stack.prefix + type.keyPrefix
        var cursor = "0"
        repeat {
            let page = try redis.command("SCAN", cursor, "MATCH", prefix + "*", "COUNT", "10000").array ?? []
            guard page.count == 2, let next = page[0].string else { throw BenchmarkError("SCAN was not answered") }
            cursor = next
            for key in (page[1].array ?? []).compactMap(\.string) {
                // The shard, the entity, what the key holds.
                let parts = key.dropFirst(prefix.count).split(separator: ":")
                guard parts.count == 3, let entity = Int(parts[1]) else {
                    throw BenchmarkError("\(key) is no entity's")
                }
                if keys[entity]?.contains(key) != true { keys[entity, default: []].append(key) }
            }
        } while cursor != "0"
        return keys
    }

    /// Bytes of a key, by the word after the entity.
    func memory(of keys: [String]) throws -> [String: Int] {
        var memory: [String: Int] = [:]
        for key in keys {
            guard let bytes = try redis.command("MEMORY", "USAGE", key, "SAMPLES", "0").integer else {
                throw BenchmarkError("\(key) has no size")
            }
            memory[key.split(separator: ":").last.map(String.init) ?? key, default: 0] += Int(bytes)
        }
        return memory
    }

    /// The tier that Redis keeps an entity in, and why.
    func tier(_ entity: Int, of type: CountedType) throws -> String {
        let status = try session.query(
            "SELECT tier, tier_reason FROM reactions.entity_status(\(entity), entity_type => '\(type.name)')")
        return (status.first ?? []).map { $0 ?? "unknown" }.joined(separator: ", ")
    }

    // MARK: Counting

    /// Asks for the entities until Redis has all of them. From then on they are counted as events come.
    func install(_ entities: ClosedRange<Int>, of type: CountedType) async throws {
        let ids = "ARRAY(SELECT generate_series(\(entities.lowerBound), \(entities.upperBound))::bigint)"
        try session.execute("SELECT count(*) FROM reactions.counts(\(ids), entity_type => '\(type.name)')")
        try await eventually(within: .seconds(120), "\(entities.count) entities are in Redis") {
            try keys(of: type).count { entities.contains($0.key) } == entities.count
        }
    }

    func countsKey(_ entity: Int, of type: CountedType) throws -> String {
        guard let key = try keys(of: type)[entity]?.first(where: { $0.hasSuffix(":reaction_counts") }) else {
            throw BenchmarkError("\(type.name) \(entity) is not in Redis")
        }
        return key
    }

    /// Waits until nobody is at work any more for what was written so far: all is counted and finished, and no server has anything of it
    /// left to write out, to vacuum or to merge.
    func settle() async throws {
        try await stack.drained(session, within: .seconds(600))
        try await eventually(within: .seconds(600), "no table is vacuumed or analyzed") {
            try session.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'") == "0"
        }
        try session.execute("CHECKPOINT")
        try await eventually(within: .seconds(600), "ClickHouse merges nothing") {
            try clickHouse.rows("SELECT count() FROM system.merges")[0][0] == "0"
        }
    }

    /// Waits until the total of an entity in Redis is this.
    func counted(_ total: Int, _ entity: Int, of type: CountedType, within limit: Duration = .seconds(120)) async throws
    {
        let key = try countsKey(entity, of: type)
        try await eventually(within: limit, "\(total) reactions of \(type.name) \(entity) are counted") {
            try redis.command("HGET", key, "total").string == String(total)
        }
    }

    /// CPU time until now, in seconds.
    struct CPUTimes {
        var agent: Double
        var redis: Double
        var postgres: Double
        var clickHouse: Double

        var all: Double { agent + redis + postgres + clickHouse }

        static func - (left: CPUTimes, right: CPUTimes) -> CPUTimes {
            CPUTimes(
                agent: left.agent - right.agent, redis: left.redis - right.redis,
                postgres: left.postgres - right.postgres, clickHouse: left.clickHouse - right.clickHouse)
        }
    }

    func cpuTimes() -> CPUTimes {
        CPUTimes(
            agent: cpuSeconds(agent.pid), redis: cpuSeconds(stack.redis.process.pid),
            postgres: cpuSecondsOfTree(stack.postgres.process.pid), clickHouse: cpuSeconds(clickHouse.process.pid))
    }

    var agentPeakKilobytes: Int { peakKilobytes(agent.pid) }

    // MARK: The truth

    /// Counts by kind, as the table has them.
    func tableCounts(_ entity: Int, of type: CountedType) throws -> [String: Int] {
        try counts(
            "SELECT reaction, count(*) FROM \(type.table) WHERE \(type.entityColumn) = \(entity) GROUP BY reaction")
    }

    /// Counts by kind, as the function has them.
    func functionCounts(_ entity: Int, of type: CountedType) throws -> [String: Int] {
        try counts(
            "SELECT kind, count FROM reactions.counts(ARRAY[\(entity)]::bigint[], entity_type => '\(type.name)') WHERE count <> 0"
        )
    }

    /// Requests of backends to ClickHouse so far, by its query log: the agent has a user of its own.
    func requestsOfBackends() throws -> Int {
        let requests = try loggedRequests()
        guard requests > 0 else { throw BenchmarkError("ClickHouse does not log the requests of backends") }
        return requests
    }

    private func loggedRequests() throws -> Int {
        try clickHouse.query("SYSTEM FLUSH LOGS")
        let started =
            "SELECT count() FROM system.query_log WHERE toInt8(type) = 1 AND user = '\(Self.userOfBackends)'"
        return Int(try clickHouse.rows(started)[0][0]) ?? 0
    }

    private func counts(_ sql: String) throws -> [String: Int] {
        try session.query(sql).reduce(into: [:]) { $0[($1[0] ?? "")] = Int($1[1] ?? "") }
    }
}
