/// What the sessions of the whole server, in whatever database, have counted since it started.
public struct BackendCounters: Sendable, Equatable {
    public struct Counter: Sendable, Equatable {
        public var name: String
        public var value: Int64

        public init(name: String, value: Int64) {
            self.name = name
            self.value = value
        }
    }

    /// Unix seconds; later ones mean that the counters have begun anew.
    public var since: Double
    public var counters: [Counter]

    public init(since: Double, counters: [Counter]) {
        self.since = since
        self.counters = counters
    }
}

extension MatchSource {
    /// Nil if the extension is not preloaded: each session has its own counters then, and nobody all of them.
    public func backendCounters() throws(PostgresError) -> BackendCounters? {
        let result = try query(
            "SELECT name, value, extract(epoch FROM since)::float8 FROM reactions._stats() WHERE shared")
        guard !result.rows.isEmpty else { return nil }
        var counters: [BackendCounters.Counter] = []
        for row in result.rows {
            counters.append(.init(name: try result.required(row, 0), value: try result.required(row, 1)))
        }
        return BackendCounters(since: try result.required(0, 2), counters: counters)
    }
}
