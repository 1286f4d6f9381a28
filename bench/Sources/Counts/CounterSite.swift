import CHiredis
import Glibc
import TestSupport

/// Posts that Redis holds, and events on them that nobody has mirrored yet.
struct CounterSite {
    /// How long something took, and the CPU time of each process meanwhile.
    struct Run {
        var seconds: Double
        var cpu: [(name: String, seconds: Double)]
    }

    let stack: Stack
    let clickHouse: ClickHouseServer
    let session: PostgresConnection
    let posts: Int

    static func make(posts: Int) async throws -> CounterSite {
        let postgres = try await PostgresServer.start(
            sharedPreloadLibraries: ["pg_reactions"], configuration: ["shared_buffers": "1GB", "max_wal_size": "8GB"])
        let clickHouse = try await ClickHouseServer.start()
        let stack = try await Stack.make(postgres: postgres, redis: RedisServer.start(), clickHouse: clickHouse)
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Post')")
        return CounterSite(stack: stack, clickHouse: clickHouse, session: session, posts: posts)
    }

    /// Entities that Redis could not answer.
    private var misses: Int {
        get throws {
            try ["absent_entity_misses", "regular_entity_misses", "viral_entity_misses"].reduce(0) {
                $0 + (try stack.counter($1, session))
            }
        }
    }

    /// Reads the counts of all posts until Redis has them.
    func install() async throws {
        let agent = try stack.startAgent(Stack.withoutMatches)
        defer { agent.stop(15) }
        try await stack.drained(session)
        try await eventually(within: .seconds(120), "the agent has installed every post") {
            let before = try misses
            try session.execute(
                "SELECT count(*) FROM reactions.counts(ARRAY(SELECT generate_series(1, \(posts))), 'Post')")
            return try misses == before
        }
    }

    /// Writes as many events as one after the other would be, each user's first one on a post, in transactions of 10,000.
    private func fill(_ events: Int) throws {
        let outbox = try session.value("SELECT coalesce(max(current_outbox), 0) FROM reactions._mirror") ?? "0"
        for first in stride(from: 0, to: events, by: 10_000) {
            try session.execute(
                """
                INSERT INTO reactions._outbox_\(outbox) (version, xid, user_id, entity_id, created_at, written_at, set_mask,
                    clear_mask, type_id, scope, delta_known)
                SELECT reactions._draw_version(), pg_current_xact_id(), g, 1 + g % \(posts), now(), clock_timestamp(), 1, 0, type_id,
                    'r', true
                FROM reactions.entity_type, generate_series(\(first + 1), \(min(first + 10_000, events))) g
                """)
        }
        try session.execute("CHECKPOINT")
    }

    /// From the start of the agent until it has mirrored and counted everything.
    func mirrorAndCount(_ events: Int) async throws -> Run {
        try fill(events)
        let start = (microseconds(), cpuTimes(nil))
        let agent = try stack.startAgent(Stack.withoutMatches)
        defer { agent.stop(15) }
        try await finished()
        return Run(seconds: (microseconds() - start.0) / 1e6, cpu: cpuSeconds(from: start.1, to: cpuTimes(agent)))
    }

    /// The counting of a backlog that ClickHouse has confirmed, and user maps were offered, already: from when it may begin until the last
    /// event is counted. The agent reads the events of the outbox, reads of Redis what it changes, and writes it.
    ///
    /// It is kept from counting by stopping the session that it asks for the catalog before it counts a batch.
    func count(_ events: Int) async throws -> Run {
        let port = try FreePort.next()
        let agent = try stack.startAgent(Stack.withoutMatches + ["--set", "agent.http_port=\(port)"])
        defer { agent.stop(15) }
        try await eventually("the agent leads") { try catalogSession() != nil }
        try await stack.drained(session)
        guard let catalogSession = try catalogSession() else { throw BenchmarkError("the agent's session has ended") }
        kill(catalogSession, SIGSTOP)
        defer { kill(catalogSession, SIGCONT) }
        // It is to find all events at once, as it does after an outage.
        agent.signal(SIGSTOP)
        try fill(events)
        agent.signal(SIGCONT)
        try await eventually(within: .seconds(600), "everything is confirmed and offered to user maps") {
            let page = try HTTP.request("http://127.0.0.1:\(port)/metrics").text
            guard page.contains("\nreactiond_redis_applied_events_total \(events)\n") else { return false }
            let confirmed =
                "SELECT sum(events) FILTER (WHERE confirmed_at IS NOT NULL AND finished_at IS NULL) FROM reactions._batch"
            return try session.value(confirmed) == "\(events)"
        }
        let start = (microseconds(), cpuTimes(agent))
        kill(catalogSession, SIGCONT)
        try await finished()
        return Run(seconds: (microseconds() - start.0) / 1e6, cpu: cpuSeconds(from: start.1, to: cpuTimes(agent)))
    }

    private func catalogSession() throws -> pid_t? {
        try session.value(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'reactiond entities' AND datname = current_database()"
        ).flatMap { pid_t($0) }
    }

    private func finished() async throws {
        let last = try session.value("SELECT max(version) FROM reactions._outbox") ?? ""
        try await eventually(within: .seconds(600), "the outbox is drained") {
            try session.value("SELECT coalesce(max(floor), 0) >= \(last) FROM reactions._mirror") == "t"
        }
    }

    private func cpuTimes(_ agent: ServerProcess?) -> [(name: String, seconds: Double)] {
        cpuSeconds(agent: agent, stack.postgres, clickHouse, stack.redis)
    }

    /// Redis has the counts, and they are right.
    func verify(_ events: Int) throws {
        let before = try misses
        let counted = try session.value(
            "SELECT sum(count) FROM reactions.counts(ARRAY(SELECT generate_series(1, \(posts))), 'Post')")
        try check(
            counted == "\(events)", "\(counted ?? "no") reactions are counted instead of \(events)")
        try check(
            try misses == before, "the counts are not those that Redis holds")
    }

    /// Seconds of as many HINCRBYs of as many posts' hashes, pipelined by the thousand; the best that a client that counts each event can do.
    func increment(_ events: Int) throws -> Double {
        let redis = try stack.redis.connect()
        let start = microseconds()
        for first in stride(from: 0, to: events, by: 1_000) {
            let count = min(1_000, events - first)
            for event in first..<first + count {
                let key = "raw:\(1 + (event + 1) % posts)"
                let command = "*4\r\n$7\r\nHINCRBY\r\n$\(key.utf8.count)\r\n\(key)\r\n$4\r\nLike\r\n$1\r\n1\r\n"
                guard redisAppendFormattedCommand(redis.context, command, command.utf8.count) == REDIS_OK else {
                    throw BenchmarkError("hiredis took no commands")
                }
            }
            for _ in 0..<count {
                var reply: UnsafeMutableRawPointer?
                guard redisGetReply(redis.context, &reply) == REDIS_OK, let reply else {
                    throw BenchmarkError("Redis did not answer")
                }
                freeReplyObject(reply)
            }
        }
        return (microseconds() - start) / 1e6
    }
}
