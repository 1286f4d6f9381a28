public import RedisStore

/// How to reach Redis.
public struct RedisSettings: Sendable {
    public struct Login: Sendable {
        /// Nil: the default user.
        public var user: String?
        /// Nil: nobody logs in.
        public var password: String?

        public init(user: String? = nil, password: String? = nil) {
            self.user = user
            self.password = password
        }
    }

    public var endpoint: RedisEndpoint
    public var login: Login
    public var sentinelLogin: Login
    public var connectTimeout: Duration
    public var timeout: Duration

    public init(
        endpoint: RedisEndpoint, login: Login = Login(), sentinelLogin: Login = Login(), connectTimeout: Duration,
        timeout: Duration
    ) {
        self.endpoint = endpoint
        self.login = login
        self.sentinelLogin = sentinelLogin
        self.connectTimeout = connectTimeout
        self.timeout = timeout
    }
}
