internal import Pipeline
internal import RedisStore

/// Who is to be asked, as far as is known.
enum RedisTopology {
    case unknown
    case server(RedisPlace)
    case cluster(ClusterSlots)
}

/// Finds out who is to be asked: goes through the servers or sentinels that are known until one of them answers.
struct RedisDiscovery {
    let settings: RedisSettings
    let keyPrefix: [UInt8]
    let connections: RedisConnections

    /// - Parameter masters: of the cluster as it was known so far. Those who are connected are asked first: one that is down would be
    ///   waited for.
    func find(known masters: [RedisPlace]) throws(CacheError) -> RedisTopology {
        var problem = CacheError(message: "Redis was not found")
        let candidates: [RedisPlace]
        switch settings.endpoint.way {
        case .servers(let places):
            let connected = masters.filter { connections[$0] != nil }
            candidates = connected + Set(masters + places).subtracting(connected)
        case .sentinels(let places, _): candidates = places
        }
        for place in candidates {
            do throws(CacheError) { return try found(by: place, isKnown: masters.contains(place)) } catch {
                problem = error
            }
        }
        throw problem
    }

    private func found(by place: RedisPlace, isKnown: Bool) throws(CacheError) -> RedisTopology {
        switch settings.endpoint.way {
        case .sentinels(_, let master):
            let found = try askSentinel(at: place, for: master)
            _ = try connections.open(to: found)
            return .server(found)
        case .servers(let places):
            let connection = try isKnown ? connections.ofCluster(to: place) : connections.open(to: place)
            guard connection.identity.isCluster else {
                guard places.count == 1 else {
                    throw CacheError(message: "redis.url names several servers, and they are not a cluster")
                }
                return .server(place)
            }
            return .cluster(try slots(from: connection))
        }
    }

    private func slots(from connection: RedisConnection) throws(CacheError) -> ClusterSlots {
        guard KeySpace.suitsCluster(prefix: keyPrefix) else { throw CacheError(message: KeySpace.unsuitablePrefix) }
        let answer: RedisReply
        do throws(CacheError) { answer = try connection.command("CLUSTER", "SLOTS") } catch {
            connections.drop(connection.place)
            throw error
        }
        guard let slots = ClusterSlots(answer, from: connection.place) else {
            throw CacheError(message: "CLUSTER SLOTS was answered with something else")
        }
        guard !slots.owners.isEmpty else { throw CacheError(message: "the Redis Cluster has no slots yet") }
        // A replica, or a master under another name.
        if !slots.owners.contains(connection.place) { connections.drop(connection.place) }
        return slots
    }

    private func askSentinel(at place: RedisPlace, for master: String) throws(CacheError) -> RedisPlace {
        let sentinel = try RedisConnection(to: place, login: settings.sentinelLogin, database: 0, settings: settings)
        guard case .array(let parts) = try sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master),
            parts.count == 2, case .text(let host) = parts[0], case .text(let port) = parts[1],
            let port = UInt16(port), let found = RedisPlace.announced(host: host, port: port, by: place)
        else { throw CacheError(message: "the sentinel knows no master of the name in redis.url") }
        return found
    }
}

extension ClusterSlots {
    /// The answer to `CLUSTER SLOTS`: arrays of first slot, last slot, master and replicas; nil if it has another shape.
    fileprivate init?(_ reply: RedisReply, from server: RedisPlace) {
        guard case .array(let ranges) = reply else { return nil }
        self.init()
        for range in ranges {
            guard case .array(let parts) = range, parts.count >= 3, case .integer(let first) = parts[0],
                case .integer(let last) = parts[1], first >= 0, first <= last, last < ClusterSlots.count,
                case .array(let master) = parts[2], master.count >= 2, case .integer(let port) = master[1],
                let port = UInt16(exactly: port)
            else { return nil }
            let host = if case .text(let text) = master[0] { text } else { "" }
            if let place = RedisPlace.announced(host: host, port: port, by: server) {
                assign(Int(first)...Int(last), to: place)
            }
        }
    }
}
