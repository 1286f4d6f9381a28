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
}

/// The checks of PostgreSQL and Redis, and those of the clocks between the servers.
public enum Doctor {
    /// Microseconds. Lag and verification compare times of different servers.
    static let toleratedSkew: Int64 = 1_000_000

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
            let identity = try await RedisCache.identity(of: settings)
            let isEvictionSafe =
                identity.maxmemoryPolicy == "noeviction" || identity.maxmemoryPolicy.hasPrefix("volatile-")
            let major = identity.version.split(separator: ".").first.flatMap { Int($0) } ?? 0
            return (
                [
                    Check(
                        "redis", ok: major >= 7, detail: "Redis \(identity.version)",
                        hint: "The scripts need Redis 7.0 or newer."),
                    Check(
                        "redis_eviction", ok: isEvictionSafe, detail: "maxmemory-policy \(identity.maxmemoryPolicy)",
                        hint: "Set maxmemory-policy to noeviction or volatile-lru: keys without TTL must stay."),
                ], identity.time - wallClock()
            )
        } catch {
            let hint = "Check redis.url, user and password."
            return ([Check("redis", ok: false, detail: error.message, hint: hint)], nil)
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
