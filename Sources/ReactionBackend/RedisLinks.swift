import RedisStore

/// The backend's links, one per server, made when a server is first spoken to. A breaker lives as long as its link.
final class RedisLinks {
    private let settings: Settings
    private let tally: Tally
    private var servers: [RedisPlace: RedisLink] = [:]
    private var sentinels: [RedisPlace: RedisLink] = [:]
    /// More servers than a cluster has at any time: the links of those that are gone are dropped then.
    private static let most = 1_000

    init(settings: Settings, tally: Tally) {
        self.settings = settings
        self.tally = tally
    }

    subscript(place: RedisPlace) -> RedisLink {
        if let link = servers[place] { return link }
        if servers.count >= Self.most { servers = servers.filter { !$0.value.isClosed } }
        let database: Int64 = if case .success(let endpoint) = settings.redis { endpoint.database } else { 0 }
        let login = RedisLogin(user: settings.redisUser, password: settings.redisPassword, database: database)
        let link = RedisLink(to: place, login: login, settings: settings, tally: tally)
        servers[place] = link
        return link
    }

    func sentinel(at place: RedisPlace) -> RedisLink {
        if let link = sentinels[place] { return link }
        let login = RedisLogin(user: settings.sentinelUser, password: settings.sentinelPassword)
        let link = RedisLink(to: place, login: login, settings: settings, tally: tally)
        sentinels[place] = link
        return link
    }

    /// Closes the connections on which something is outstanding.
    func abandon() {
        for link in servers.values where !link.isIdle { link.close() }
        for link in sentinels.values where !link.isIdle { link.close() }
    }

    func close() {
        for link in servers.values { link.close() }
        for link in sentinels.values { link.close() }
    }
}
