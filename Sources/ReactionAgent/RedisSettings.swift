/// How to reach Redis.
public struct RedisSettings: Sendable {
    public enum Address: Sendable, Equatable {
        case tcp(host: String, port: Int32)
        case unix(path: String)
    }

    public var address: Address
    public var database: Int
    public var user: String?
    public var password: String?
    public var connectTimeout: Duration
    public var timeout: Duration

    public init(
        address: Address, database: Int, user: String? = nil, password: String? = nil, connectTimeout: Duration,
        timeout: Duration
    ) {
        self.address = address
        self.database = database
        self.user = user
        self.password = password
        self.connectTimeout = connectTimeout
        self.timeout = timeout
    }
}

/// What Redis says of itself.
public struct RedisIdentity: Sendable, Equatable {
    /// New with every process.
    public var runID: String
    public var version: String
    public var maxmemoryPolicy: String
    /// Microseconds since 1970-01-01 UTC by Redis's clock.
    public var time: Int64
}
