internal import Configuration
internal import Foundation
public import Logging
public import Pipeline
public import PostgresSource
internal import RedisStore
internal import SystemPackage

/// A setting cannot be used.
public struct SettingsError: Error, CustomStringConvertible {
    public var description: String
}

/// Everything the agent is told: `--set` over environment over file over the defaults in `Setting.all`.
public struct Settings: Sendable {
    public var postgres: PostgresSettings
    public var redis: RedisSettings
    public var clickHouse: ClickHouseSettings
    public var limits: PostgresSource.BatchLimits
    public var mirror: Mirror.Settings
    public var entities: EntityServices.Settings
    public var backfill: BackfillService.Settings
    public var match: MatchSettings
    var matchService: MatchService.Settings
    var reconcileService: ReconcileService.Settings
    public var httpPort: UInt16?
    public var logLevel: Logger.Level

    /// - Parameters:
    ///   - file: path of a YAML file; nil for none.
    ///   - assignments: `key=value` from the command line.
    public static func load(
        file: String?, assignments: [String], environment: [String: String]
    ) async throws -> Settings {
        var providers: [any ConfigProvider] = [
            InMemoryProvider(name: "command line", values: try values(of: assignments)),
            EnvironmentVariablesProvider(environmentVariables: environment).prefixKeys(with: "reactiond"),
        ]
        var secretsReader = ConfigReader(providers: providers)
        if let file {
            do {
                providers.append(try await FileProvider<YAMLSnapshot>(filePath: FilePath(file)))
            } catch {
                throw SettingsError(description: "configuration file \(file): \(error)")
            }
            if isPrivate(file) { secretsReader = ConfigReader(providers: providers) }
        }
        return try Settings(Reader(config: ConfigReader(providers: providers), secrets: secretsReader))
    }

    private init(_ reader: Reader) throws {
        postgres = PostgresSettings(
            conninfo: try reader.text("postgres.conninfo"), password: try reader.password("postgres"),
            connectTimeout: try reader.duration("postgres.connect_timeout"),
            timeout: try reader.duration("postgres.timeout"))
        redis = RedisSettings(
            endpoint: try Self.redisEndpoint(try reader.text("redis.url")),
            login: .init(user: try reader.optionalText("redis.user"), password: try reader.password("redis")),
            sentinelLogin: .init(
                user: try reader.optionalText("redis.sentinel_user"),
                password: try reader.secret("redis.sentinel_password")),
            connectTimeout: try reader.duration("redis.connect_timeout"),
            timeout: try reader.duration("redis.timeout"))
        do {
            clickHouse = try ClickHouseSettings(
                url: try reader.text("clickhouse.url"), database: try reader.text("clickhouse.database"),
                user: try reader.text("clickhouse.user"), password: try reader.password("clickhouse") ?? "",
                connectTimeout: try reader.duration("clickhouse.connect_timeout"),
                requestTimeout: try reader.duration("clickhouse.timeout"))
        } catch let problem as ClickHouseSettings.Problem {
            throw SettingsError(description: problem.description)
        }
        limits = PostgresSource.BatchLimits()
        limits.chunkEvents = Int32(try reader.number("mirror.chunk_events", in: 1...1_000_000))
        limits.batchEvents = Int64(try reader.number("mirror.batch_events", in: 1...100_000_000))
        limits.retention = try reader.duration("mirror.batch_retention")
        limits.rotateBytes = try reader.size("outbox.rotate_size")
        limits.rotateAfter = try reader.duration("outbox.rotate_after")
        mirror = Mirror.Settings(
            idleBeforeSleep: try reader.duration("mirror.idle_before_sleep"),
            redisGiveUp: try reader.duration("redis.give_up"),
            shutdownTimeout: try reader.duration("agent.shutdown_timeout"),
            longestBackoff: try reader.duration("mirror.longest_backoff"))
        entities = try Self.entities(reader)
        let rowsPerSecond = try reader.number("backfill.rows_per_second", in: 0...1_000_000_000)
        backfill = BackfillService.Settings(
            isAutomatic: try reader.boolean("backfill.automatic"),
            lanes: try reader.number("backfill.sessions", in: 1...64),
            limits: .init(
                longestLag: try reader.duration("backfill.longest_lag"),
                rowsPerSecond: rowsPerSecond == 0 ? nil : rowsPerSecond),
            longestBackoff: try reader.duration("mirror.longest_backoff"))
        match = MatchSettings(
            sliceRows: Int64(try reader.number("match.slice_rows", in: 1...1_000_000_000)),
            patience: try reader.duration("match.patience"))
        let intervals = try ["match.recent_interval", "match.full_interval"].map { key in
            let interval = try reader.duration(key)
            return interval == .zero ? nil : interval
        }
        matchService = MatchService.Settings(
            match: match, recentInterval: intervals[0], fullInterval: intervals[1],
            watchInterval: try reader.duration("match.watch_interval"),
            longestBackoff: try reader.duration("mirror.longest_backoff"))
        let reconcileInterval = try reader.duration("reconcile.interval")
        reconcileService = ReconcileService.Settings(
            reconcile: ReconcileSettings(
                keysPerSecond: try reader.number("reconcile.keys_per_second", in: 1...1_000_000_000),
                mostRepairs: Int64(try reader.number("reconcile.max_repairs", in: 0...1_000_000_000)),
                timeToLive: entities.ttl),
            interval: reconcileInterval == .zero ? nil : reconcileInterval,
            longestBackoff: try reader.duration("mirror.longest_backoff"))
        let port = try reader.number("agent.http_port", in: 0...65535)
        httpPort = port == 0 ? nil : UInt16(port)
        guard let level = Logger.Level(rawValue: try reader.text("agent.log_level")) else {
            throw SettingsError(description: "agent.log_level is not a log level")
        }
        logLevel = level
    }

    private static func entities(_ reader: Reader) throws -> EntityServices.Settings {
        EntityServices.Settings(
            tiering: Tiering(
                dwell: try reader.duration("entities.viral_dwell"),
                horizon: try reader.duration("entities.viral_horizon")),
            ttl: try reader.duration("entities.ttl"),
            rebuildsPerSecond: try reader.number("entities.rebuilds_per_second", in: 0...1_000_000))
    }

    private static func values(of assignments: [String]) throws -> [AbsoluteConfigKey: ConfigValue] {
        var values: [AbsoluteConfigKey: ConfigValue] = [:]
        for assignment in assignments {
            let parts = assignment.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(
                String.init)
            guard parts.count == 2, let setting = Setting.all.first(where: { $0.key == parts[0] }) else {
                throw SettingsError(description: "--set \(parts[0]): not a setting, or no value")
            }
            guard setting.form != .secret else {
                throw SettingsError(
                    description:
                        "--set \(setting.key): everybody can read a command line; use \(setting.environmentName)")
            }
            values[AbsoluteConfigKey(ConfigKey(setting.key))] = ConfigValue(.string(parts[1]), isSecret: false)
        }
        return values
    }

    static func redisEndpoint(_ text: String) throws -> RedisEndpoint {
        do throws(RedisEndpoint.Problem) {
            return try RedisEndpoint(text)
        } catch {
            throw SettingsError(description: "redis.url is not valid. \(error.text) \(RedisEndpoint.hint)")
        }
    }

    /// Whether nobody but the owner can read the file.
    fileprivate static func isPrivate(_ path: String) -> Bool {
        let attributes = try? FileManager.default.attributesOfItem(atPath: path)
        guard let mode = attributes?[.posixPermissions] as? NSNumber else { return false }
        return mode.intValue & 0o077 == 0
    }
}

/// Reads settings as text and parses them by their form; what is wrong is told by the key, never by a secret's value.
private struct Reader {
    let config: ConfigReader
    /// Without the file if others can read it.
    let secrets: ConfigReader

    func text(_ key: String) throws -> String {
        guard let setting = Setting.all.first(where: { $0.key == key }) else {
            throw SettingsError(description: "\(key) is not a setting")
        }
        return config.string(forKey: ConfigKey(key)) ?? setting.standard
    }

    func optionalText(_ key: String) throws -> String? {
        let text = try text(key)
        return text.isEmpty ? nil : text
    }

    func number(_ key: String, in range: ClosedRange<Int>) throws -> Int {
        guard let number = Int(try text(key)), range.contains(number) else {
            throw SettingsError(description: "\(key) is not a number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    func boolean(_ key: String) throws -> Bool {
        guard let value = Bool(try text(key)) else { throw SettingsError(description: "\(key) is not true or false") }
        return value
    }

    func duration(_ key: String) throws -> Duration {
        guard let duration = Setting.Form.duration(try text(key)) else {
            throw SettingsError(description: "\(key) is not a duration such as 500ms, 30s, 10min or 1h")
        }
        return duration
    }

    func size(_ key: String) throws -> Int64 {
        guard let size = Setting.Form.size(try text(key)) else {
            throw SettingsError(description: "\(key) is not a size such as 64MB or 1GB")
        }
        return size
    }

    /// From `<server>.password`, or from the file named by `<server>.password_file`.
    func password(_ server: String) throws -> String? {
        try secret("\(server).password")
    }

    /// From the setting, or from the file named by the setting with `_file` behind it.
    func secret(_ name: String) throws -> String? {
        let key = ConfigKey(name)
        if let password = secrets.string(forKey: key, isSecret: true), !password.isEmpty { return password }
        if config.string(forKey: key, isSecret: true)?.isEmpty == false {
            throw SettingsError(description: "\(name) is in a configuration file that others can read: chmod 600")
        }
        guard let path = try optionalText("\(name)_file") else { return nil }
        guard Settings.isPrivate(path) else {
            throw SettingsError(description: "\(name)_file \(path) is missing or open to others: chmod 600")
        }
        guard let text = try? String(contentsOfFile: path, encoding: .utf8) else {
            throw SettingsError(description: "\(name)_file \(path) cannot be read")
        }
        return text.trimmingCharacters(in: .newlines)
    }
}
