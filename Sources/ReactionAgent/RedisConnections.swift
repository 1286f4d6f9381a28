internal import Pipeline
internal import RedisStore

/// The connections of a `RedisClient`, one per server, opened when they are needed. Not Sendable: they belong to one actor.
final class RedisConnections {
    private let settings: RedisSettings
    private var opened: [RedisPlace: RedisConnection] = [:]
    /// Servers of a cluster that could not be connected to, and when: while one is down the others are not kept waiting for it.
    private var refusals: [RedisPlace: (failure: CacheError, time: ContinuousClock.Instant)] = [:]
    private static let refusalInterval: Duration = .seconds(1)

    init(settings: RedisSettings) {
        self.settings = settings
    }

    /// Nil if there is none.
    subscript(place: RedisPlace) -> RedisConnection? { opened[place] }

    func first(where condition: (RedisConnection) -> Bool) -> RedisConnection? {
        opened.values.first(where: condition)
    }

    func open(to place: RedisPlace) throws(CacheError) -> RedisConnection {
        if let connection = opened[place] { return connection }
        let connection = try RedisConnection(
            to: place, login: settings.login, database: settings.endpoint.database, settings: settings)
        opened[place] = connection
        refusals[place] = nil
        return connection
    }

    /// Fails at once for a second after it has failed.
    func ofCluster(to place: RedisPlace) throws(CacheError) -> RedisConnection {
        if let (failure, time) = refusals[place], ContinuousClock.now - time < Self.refusalInterval { throw failure }
        do throws(CacheError) { return try open(to: place) } catch {
            refusals[place] = (error, .now)
            throw error
        }
    }

    func drop(_ place: RedisPlace) {
        opened[place] = nil
    }
}
