import Synchronization
import TestSupport

/// Reads of the viral post while reactions to it are written, and how many of them had to ask a database.
struct ViralReads {
    /// Reads of one kind.
    struct Outcome {
        var call: String
        var reads: Int
        var times: Samples
        /// By the extension's counters.
        var fallbacks: Int
        /// By the servers: scans of the attached table, and requests of backends to ClickHouse.
        var seenByServers: Int
        /// Written to the post meanwhile.
        var writes: Int
    }

    let site: EntitySite
    let load: ViralLoad
    /// Of each client, for each call.
    let rounds: Int

    private static let clients = 4
    /// Who come back, so that their maps are in Redis.
    private static let viewers = 500
    /// One read of flags in so many is of somebody who was not here for a week.
    private static let newViewers = 50
    static let pageSize = 20

    /// A call in SQL; `$1` is a viewer.
    private static let calls: [(name: String, sql: String)] = {
        let (post, type) = (ViralLoad.post, "entity_type => '\(ViralLoad.type.name)'")
        return [
            ("counts", "SELECT count(*) FROM reactions.counts(ARRAY[\(post)]::bigint[], \(type)) WHERE $1::bigint > 0"),
            ("total", "SELECT reactions.total(\(post), \(type)) WHERE $1::bigint > 0"),
            ("is_viral", "SELECT reactions.is_viral(\(post), \(type)) WHERE $1::bigint > 0"),
            (
                "reactors, first page",
                "SELECT count(*) FROM reactions.reactors(\(post), page_size => \(pageSize), \(type)) WHERE $1::bigint > 0"
            ),
            ("flags of a viewer", "SELECT reactions.flags($1, \(post), \(type))"),
        ]
    }()

    func run() async throws -> [Outcome] {
        var outcomes: [Outcome] = []
        let flags = Self.calls[Self.calls.count - 1].sql
        try await readOnce(flags)
        for call in Self.calls { outcomes.append(try await measure(call)) }
        return outcomes
    }

    /// Puts the maps of those who come back into Redis.
    private func readOnce(_ sql: String) async throws {
        do {
            let session = try Self.viewer(site.stack)
            for viewer in 1...Self.viewers { try session.query(sql, [String(viewer)]) }
        }
        try await viewersHaveLeft()
    }

    private static func viewer(_ stack: Stack) throws -> PostgresConnection {
        let session = try stack.connect()
        try session.execute("SET application_name = 'viewer'")
        return session
    }

    /// What a session has counted is there for all when it has ended.
    private func viewersHaveLeft() async throws {
        try await eventually("the viewers' sessions have ended") {
            try site.session.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'viewer'") == "0"
        }
    }

    private func measure(_ call: (name: String, sql: String)) async throws -> Outcome {
        let before = try readings()
        let end = EndSignal()
        let (stack, rounds) = (site.stack, rounds)
        let nobodyYet = Atomic(Self.viewers)
        let writer = try writer(until: end)
        let samples = try await runClients(Self.clients) { client in
            let session = try Self.viewer(stack)
            var samples = Samples()
            for round in 0..<rounds {
                let isNew = call.sql.contains("flags($1") && round % Self.newViewers == 0
                let viewer =
                    isNew
                    ? nobodyYet.add(1, ordering: .relaxed).newValue : 1 + (round * Self.clients + client) % Self.viewers
                let start = microseconds()
                try session.query(call.sql, [String(viewer)])
                samples.add(microseconds() - start)
            }
            return samples
        }
        end.raise()
        let writes = try await writer.value
        load.written(writes)
        try await viewersHaveLeft()
        let after = try readings()
        var times = Samples()
        for time in samples.flatMap(\.values) { times.add(time) }
        return Outcome(
            call: call.name, reads: times.values.count, times: times, fallbacks: after.counted - before.counted,
            seenByServers: after.seen - before.seen, writes: writes)
    }

    /// Writes one reaction after the other, each in a transaction of its own; answers how many.
    private func writer(until end: EndSignal) throws -> Task<Int, any Error> {
        let session = try site.stack.connect()
        let first = load.reactions + 1
        let user = load.user("n")
        return Task {
            try await onThread {
                Result {
                    var written = 0
                    while !end.isRaised {
                        let number = first + written
                        try session.execute(
                            ViralLoad.type.insert(
                                from: "(SELECT \(number) AS n, \(ViralLoad.post) AS entity) AS new", user: { _ in user }
                            ))
                        written += 1
                    }
                    return written
                }
            }.get()
        }
    }

    private func readings() throws -> (counted: Int, seen: Int) {
        let counted = try ["table_reads", "clickhouse_requests"].reduce(0) {
            $0 + (try site.stack.counter($1, site.session))
        }
        let scans = try site.session.value(
            "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'PostReaction'"
        )
        return (counted, (Int(scans ?? "") ?? 0) + (try site.requestsOfBackends()))
    }
}
