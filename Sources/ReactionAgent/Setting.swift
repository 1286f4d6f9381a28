/// One setting of the agent. The list is what the configuration file, the environment, `--set` and docs/configuration.md are made of.
public struct Setting: Sendable {
    /// How the text is read.
    public enum Form: String, Sendable {
        case text
        case number
        /// true or false.
        case boolean
        /// A number with ms, s, min or h.
        case duration
        /// A number with B, kB, MB or GB, in powers of 1024.
        case size
        /// A text that is never printed.
        case secret
    }

    /// In the file, with a nesting level per dot: `redis.url`. In the environment: `REACTIOND_REDIS_URL`.
    public var key: String
    public var form: Form
    /// As it would be written; empty for unset.
    public var standard: String
    public var help: String

    public var environmentName: String {
        "REACTIOND_" + key.uppercased().replacing(".", with: "_")
    }

    public static let all: [Setting] = [
        .init(
            key: "postgres.conninfo", form: .text, standard: "",
            help:
                "libpq connection string or URI of the primary; a direct connection, not a pooler. Empty: libpq's PG* variables."
        ),
        .init(key: "postgres.password", form: .secret, standard: "", help: "Password. Empty: what libpq finds itself."),
        .init(
            key: "postgres.password_file", form: .text, standard: "",
            help: "File with the password, not open to others."),
        .init(key: "postgres.connect_timeout", form: .duration, standard: "10s", help: "For connecting."),
        .init(key: "postgres.timeout", form: .duration, standard: "5min", help: "For one statement."),
        .init(
            key: "redis.url", form: .text, standard: "redis://127.0.0.1:6379/0",
            help:
                "redis://host:port/database; redis://host:port,host:port for a cluster; redis-sentinel://host:port,host:port/master?db=0; or unix:///path?db=0."
        ),
        .init(key: "redis.user", form: .text, standard: "", help: "ACL user. Empty: the default user."),
        .init(key: "redis.password", form: .secret, standard: "", help: "Password. Empty: none."),
        .init(
            key: "redis.password_file", form: .text, standard: "", help: "File with the password, not open to others."),
        .init(
            key: "redis.sentinel_user", form: .text, standard: "",
            help: "ACL user at the sentinels. Empty: the default user."),
        .init(
            key: "redis.sentinel_password", form: .secret, standard: "",
            help: "Password at the sentinels. Empty: none, also if the servers have one."),
        .init(
            key: "redis.sentinel_password_file", form: .text, standard: "",
            help: "File with the password, not open to others."),
        .init(key: "redis.connect_timeout", form: .duration, standard: "2s", help: "For connecting."),
        .init(key: "redis.timeout", form: .duration, standard: "2s", help: "For one exchange."),
        .init(
            key: "redis.give_up", form: .duration, standard: "30s",
            help: "After this long without Redis user maps and entities are made absent and the mirror goes on."),
        .init(
            key: "entities.ttl", form: .duration, standard: "24h",
            help: "How long Redis keeps counts and reactors of an entity that nobody changes."),
        .init(
            key: "entities.viral_dwell", form: .duration, standard: "10min",
            help: "How long an entity stays viral at least."),
        .init(
            key: "entities.viral_horizon", form: .duration, standard: "1min",
            help:
                "An entity is viral as soon as its rate would bring it to its type's viral_threshold within this time; 0s: not before."
        ),
        .init(
            key: "entities.rebuilds_per_second", form: .number, standard: "1000",
            help:
                "Missed entities that are read of ClickHouse per second, those that are missed most first; 0: none, and Redis keeps what it has."
        ),
        .init(key: "clickhouse.url", form: .text, standard: "http://127.0.0.1:8123", help: "HTTP or HTTPS endpoint."),
        .init(key: "clickhouse.database", form: .text, standard: "reactions", help: "Database of the three tables."),
        .init(key: "clickhouse.user", form: .text, standard: "default", help: "User."),
        .init(key: "clickhouse.password", form: .secret, standard: "", help: "Password. Empty: none."),
        .init(
            key: "clickhouse.password_file", form: .text, standard: "",
            help: "File with the password, not open to others."),
        .init(key: "clickhouse.connect_timeout", form: .duration, standard: "5s", help: "For connecting."),
        .init(
            key: "clickhouse.timeout", form: .duration, standard: "30s",
            help: "For one request. A new leader that finds an unfinished batch waits this long before it sends."),
        .init(
            key: "mirror.batch_events", form: .number, standard: "100000",
            help: "A larger backlog is cut into several batches, between transactions."),
        .init(
            key: "mirror.chunk_events", form: .number, standard: "100000",
            help: "Events of one insert into ClickHouse, where a single transaction has more."),
        .init(
            key: "mirror.batch_retention", form: .duration, standard: "10min",
            help: "How long finished batches are kept, to be verified again when ClickHouse has restarted."),
        .init(
            key: "mirror.idle_before_sleep", form: .duration, standard: "5s",
            help: "After this long without events the agent stops polling and has writers wake it."),
        .init(
            key: "mirror.longest_backoff", form: .duration, standard: "30s",
            help: "Between attempts at a server that fails."),
        .init(
            key: "outbox.rotate_size", form: .size, standard: "256MB",
            help: "Size at which the outbox moves on to the next table."),
        .init(key: "outbox.rotate_after", form: .duration, standard: "1h", help: "The same by time."),
        .init(
            key: "backfill.automatic", form: .boolean, standard: "true",
            help:
                "Whether an attached table is read as soon as it is attached; else when reactiond backfill asks for it."
        ),
        .init(
            key: "backfill.sessions", form: .number, standard: "2",
            help: "Ranges of a table that are read and sent at the same time, each by a session at either server."),
        .init(
            key: "backfill.rows_per_second", form: .number, standard: "0",
            help: "Rows that are read per second, on average; 0: as many as possible."),
        .init(
            key: "backfill.longest_lag", form: .duration, standard: "10s",
            help: "Nothing is read while an event waits for the mirror longer than this."),
        .init(
            key: "match.recent_interval", form: .duration, standard: "1h",
            help: "Between two matches of what was written since the last one; 0s: none by itself."),
        .init(
            key: "match.full_interval", form: .duration, standard: "24h",
            help: "Between two full matches; 0s: none by itself, not even when one is wanted."),
        .init(
            key: "match.watch_interval", form: .duration, standard: "1min",
            help: "Between two looks whether the capture of a table was altered."),
        .init(
            key: "match.slice_rows", form: .number, standard: "10000000",
            help: "Rows that a match reads from a table in one snapshot, about."),
        .init(
            key: "match.patience", form: .duration, standard: "30s",
            help:
                "How long a match looks again at a reaction whose events are on their way, before it counts it as in flight; and how long the command waits for another match."
        ),
        .init(
            key: "reconcile.interval", form: .duration, standard: "6h",
            help: "Between two looks through what is in Redis; 0s: none by itself."),
        .init(
            key: "reconcile.keys_per_second", form: .number, standard: "10000",
            help: "Keys of Redis that a look through passes by per second, on average."),
        .init(
            key: "reconcile.max_repairs", form: .number, standard: "1000",
            help: "Repairs of one run; what is found beyond them is only reported."),
        .init(
            key: "agent.shutdown_timeout", form: .duration, standard: "20s",
            help: "On SIGTERM the batches under way are finished, at most this long."),
        .init(
            key: "agent.http_port", form: .number, standard: "0",
            help: "Port on 127.0.0.1 of /metrics, /healthz and /readyz; 0: none."),
        .init(
            key: "agent.log_level", form: .text, standard: "info",
            help: "trace, debug, info, notice, warning, error or critical."),
    ]
}

extension Setting.Form {
    static func duration(_ text: String) -> Duration? {
        let units: [(suffix: String, unit: Duration)] = [
            ("ms", .milliseconds(1)), ("min", .seconds(60)), ("s", .seconds(1)), ("h", .seconds(3600)),
        ]
        return units.lazy.compactMap { number(text, before: $0.suffix).map { [unit = $0.unit] in unit * $0 } }.first
    }

    static func size(_ text: String) -> Int64? {
        let units: [(suffix: String, unit: Int64)] = [("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("B", 1)]
        for (suffix, unit) in units {
            guard let number = number(text, before: suffix) else { continue }
            let (size, overflow) = unit.multipliedReportingOverflow(by: Int64(number))
            return overflow ? nil : size
        }
        return nil
    }

    /// A number of at most nine digits.
    private static func number(_ text: String, before suffix: String) -> Int? {
        guard text.hasSuffix(suffix) else { return nil }
        let digits = text.dropLast(suffix.count).trimmingSuffix { $0 == " " }
        guard !digits.isEmpty, digits.count <= 9, digits.allSatisfy({ $0.isASCII && $0.isNumber }) else { return nil }
        return Int(digits)
    }
}

extension Substring {
    fileprivate func trimmingSuffix(while predicate: (Character) -> Bool) -> Substring {
        guard let end = lastIndex(where: { !predicate($0) }) else { return prefix(0) }
        return self[...end]
    }
}
