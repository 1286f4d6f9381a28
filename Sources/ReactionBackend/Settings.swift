import CReactionsBoundary
import RedisStore

/// A copy of what C knows about the servers. Times in milliseconds.
struct Settings: Equatable {
    var redis: Result<RedisEndpoint, Failure>
    var redisUser = ""
    var redisPassword = ""
    var sentinelUser = ""
    var sentinelPassword = ""
    var redisConnectTimeout: Int64 = 0
    var redisTimeout: Int64 = 0
    var keyPrefix: [UInt8] = []
    var clickHouse: Result<ClickHouseEndpoint, Failure>
    var clickHouseDatabase = ""
    var clickHouseUser = ""
    var clickHousePassword = ""
    var clickHouseTimeout: Int64 = 0
    var fillWait: Int64 = 0
    var hashThreshold = 0

    /// Nothing is configured.
    init() {
        redis = Self.parse("", RedisEndpoint.init(setting:))
        clickHouse = Self.parse("", ClickHouseEndpoint.init)
    }

    init(_ settings: rx_settings) {
        redis = Self.parse(Self.text(settings.redis_url), RedisEndpoint.init(setting:))
        redisUser = Self.text(settings.redis_user)
        redisPassword = Self.text(settings.redis_password)
        sentinelUser = Self.text(settings.redis_sentinel_user)
        sentinelPassword = Self.text(settings.redis_sentinel_password)
        redisConnectTimeout = Int64(settings.redis_connect_timeout_ms)
        redisTimeout = Int64(settings.redis_timeout_ms)
        keyPrefix = Array(Self.text(settings.key_prefix).utf8)
        clickHouse = Self.parse(Self.text(settings.clickhouse_url), ClickHouseEndpoint.init)
        clickHouseDatabase = Self.text(settings.clickhouse_database)
        clickHouseUser = Self.text(settings.clickhouse_user)
        clickHousePassword = Self.text(settings.clickhouse_password)
        clickHouseTimeout = Int64(settings.clickhouse_timeout_ms)
        fillWait = Int64(settings.fill_wait_ms)
        hashThreshold = Int(settings.hgetall_threshold)
    }

    private static func text(_ pointer: UnsafePointer<CChar>?) -> String {
        pointer.map { String(cString: $0) } ?? ""
    }

    private static func parse<Endpoint>(
        _ text: String, _ make: (String) throws(Failure) -> Endpoint
    ) -> Result<Endpoint, Failure> {
        do throws(Failure) { return .success(try make(text)) } catch { return .failure(error) }
    }
}
