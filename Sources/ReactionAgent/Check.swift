internal import Glibc
internal import Pipeline
public import PostgresSource

/// One line of `reactiond doctor`.
public struct Check: Sendable, Codable, Equatable {
    public var name: String
    public var ok: Bool
    public var detail: String
    /// What to do if it is not ok.
    public var hint: String?

    public init(_ name: String, ok: Bool, detail: String, hint: String) {
        self.name = name
        self.ok = ok
        self.detail = detail
        self.hint = ok ? nil : hint
    }

    /// For humans.
    public var line: String {
        "\(ok ? "ok    " : "FAILED") \(name): \(detail)" + (hint.map { "\n       \($0)" } ?? "")
    }
}

/// The checks of the three servers, and of their clocks.
public enum Doctor {
    /// Microseconds. Verification compares times of PostgreSQL and ClickHouse, which tells whole seconds.
    static let toleratedSkew: Int64 = 2_000_000

    public static func postgres(_ source: PostgresSource) async -> (checks: [Check], skew: Int64?) {
        do {
            try await source.open()
            let version = try await source.extensionVersion()
            let skew = try await source.now() - wallClock()
            let reached = Check("postgres", ok: true, detail: "primary, direct connection", hint: "")
            let installed: Check
            do {
                try IncompatibleExtension.check(version)
                installed = Check("extension", ok: true, detail: "pg_reactions \(version ?? "")", hint: "")
            } catch {
                installed = Check(
                    "extension", ok: false, detail: "\(error)",
                    hint: version == nil ? "CREATE EXTENSION pg_reactions" : "Install a newer reactiond.")
            }
            return ([reached, installed], skew)
        } catch {
            let hint = "Check postgres.conninfo and the password; the agent needs the primary, without a pooler."
            return ([Check("postgres", ok: false, detail: "\(error)", hint: hint)], nil)
        }
    }

    public static func redis(_ settings: RedisSettings) async -> (checks: [Check], skew: Int64?) {
        do throws(CacheError) {
            let report = try await RedisReport.ask(settings)
            let versions = Set(report.servers.map(\.version)).sorted()
            let policies = Set(report.servers.map(\.maxmemoryPolicy)).sorted()
            let isNew = versions.allSatisfy { ($0.split(separator: ".").first.flatMap { Int($0) } ?? 0) >= 7 }
            var detail = "Redis \(versions.joined(separator: ", "))"
            if report.isCluster { detail += ", a cluster of \(report.servers.count) masters" }
            if report.missingSlots > 0 { detail += ", without a master for \(report.missingSlots) slots" }
            let skews = report.servers.map { $0.time - wallClock() }
            return (
                [
                    Check(
                        "redis", ok: isNew && report.missingSlots == 0, detail: detail,
                        hint: isNew ? "See CLUSTER NODES." : "The scripts need Redis 7.0 or newer."),
                    Check(
                        "redis_eviction", ok: policies.allSatisfy { $0 == "noeviction" || $0.hasPrefix("volatile-") },
                        detail: "maxmemory-policy \(policies.joined(separator: ", "))",
                        hint: "Set maxmemory-policy to noeviction or volatile-lru: keys without TTL must stay."),
                ], skews.max { $0.magnitude < $1.magnitude }
            )
        } catch {
            let hint = "Check redis.url, user and password."
            return ([Check("redis", ok: false, detail: error.message, hint: hint)], nil)
        }
    }

    /// A session asks the server who it is and whether the tables have the expected columns.
    public static func clickHouse(_ settings: ClickHouseSettings) async -> (checks: [Check], skew: Int64?) {
        do throws(SinkError) {
            let identity = try await ClickHouseSink(settings).connect()
            let (time, timezone) = try await ClickHouseProbe().clock(of: settings)
            return (
                [
                    Check(
                        "clickhouse", ok: true, detail: "ClickHouse \(identity.version), timezone \(timezone)", hint: ""
                    )
                ], time - wallClock()
            )
        } catch {
            let hint = "Check clickhouse.url, user and password; reactiond init-clickhouse makes the tables."
            return ([Check("clickhouse", ok: false, detail: error.message, hint: hint)], nil)
        }
    }

    /// Servers that could not be asked are left out.
    public static func clocks(_ skews: [(server: String, skew: Int64?)]) -> Check {
        let known = skews.compactMap { server, skew in skew.map { (server, $0) } }
        let spread = (known.map(\.1).max() ?? 0) - (known.map(\.1).min() ?? 0)
        let detail = known.map { "\($0.0) \($0.1 / 1000) ms" }.joined(separator: ", ")
        return Check(
            "clocks", ok: spread <= toleratedSkew, detail: detail, hint: "Let NTP set the clocks of all servers.")
    }
}

/// Microseconds since 1970-01-01 UTC by this machine's clock.
func wallClock() -> Int64 {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return Int64(now.tv_sec) * 1_000_000 + Int64(now.tv_nsec) / 1000
}

/// Keeps a blocking question off the cooperative pool.
private actor ClickHouseProbe {
    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }
    private let executor = QueueExecutor(label: "reactiond.clickhouse.probe")

    /// Microseconds since 1970-01-01 UTC, in the middle of the second that the server tells.
    func clock(of settings: ClickHouseSettings) throws(SinkError) -> (time: Int64, timezone: String) {
        let answer = try ClickHouseClient(settings)
            .rows("SELECT toUInt32(now()), timezone()", inDatabase: false)
        guard let row = answer.first, row.count == 2, let seconds = Int64(row[0]) else {
            throw SinkError(disposition: .retry, message: "the server did not tell its time")
        }
        return (seconds * 1_000_000 + 500_000, row[1])
    }
}
