import RedisStore

/// Finds out who is to be asked: goes through the servers or sentinels that are known until one of them answers.
struct RedisDiscovery {
    enum Finding {
        case server(RedisLink)
        case cluster(ClusterSlots)
    }

    private enum State {
        /// Can transition to: greeting.
        case idle
        /// Can transition to: asking, found, idle.
        case greeting(RedisLink)
        /// A sentinel is asked for the master, or a server of a cluster for the slots. Can transition to: greetingMaster, found, idle.
        case asking(RedisLink)
        /// Can transition to: found, idle.
        case greetingMaster(RedisLink)
        case found(Finding)
    }

    private let way: RedisEndpoint.Way
    private let links: RedisLinks
    private let ignoresBreaker: Bool
    private let withScripts: Bool
    private var candidates: ArraySlice<RedisPlace>
    private var state = State.idle
    private var lastFailure = Failure.redisUnreachable("")

    /// - Parameter known: servers of the cluster that were known so far, who are asked before those of the URL.
    init(
        _ way: RedisEndpoint.Way, known: [RedisPlace], links: RedisLinks, withScripts: Bool, ignoringBreaker: Bool
    ) {
        self.way = way
        self.links = links
        self.withScripts = withScripts
        ignoresBreaker = ignoringBreaker
        switch way {
        case .servers(let places): candidates = (known + places.filter { !known.contains($0) })[...]
        case .sentinels(let places, _): candidates = places[...]
        }
    }

    var finding: Finding? {
        if case .found(let finding) = state { finding } else { nil }
    }

    /// Returns what it waits for, or nil when it has found.
    mutating func advance(_ now: Int64) throws(Failure) -> Wait? {
        while true {
            do throws(Failure) {
                if let wait = try step(now) { return wait }
                if finding != nil { return nil }
            } catch {
                // What is wrong with the settings is wrong whoever is asked.
                if candidates.isEmpty || error.isMistake { throw error }
                lastFailure = error
                state = .idle
            }
        }
    }

    private mutating func step(_ now: Int64) throws(Failure) -> Wait? {
        switch state {
        case .found: return nil
        case .idle:
            guard let place = candidates.popFirst() else { throw lastFailure }
            let link = isSentinel ? links.sentinel(at: place) : links[place]
            try link.open(at: now, withScripts: withScripts && !isSentinel, ignoringBreaker: ignoresBreaker)
            state = .greeting(link)
        case .greeting(let link):
            if let wait = try link.advance(now) { return wait }
            try greeted(link, now)
        case .asking(let link):
            if let wait = try link.advance(now) { return wait }
            try answered(link, now)
        case .greetingMaster(let link):
            if let wait = try link.advance(now) { return wait }
            state = .found(.server(link))
        }
        return nil
    }

    private var isSentinel: Bool {
        if case .sentinels = way { true } else { false }
    }

    private mutating func greeted(_ link: RedisLink, _ now: Int64) throws(Failure) {
        switch way {
        case .sentinels(_, let master):
            try link.send(at: now) { commands in
                commands.begin("SENTINEL", arguments: 2)
                commands.append("GET-MASTER-ADDR-BY-NAME")
                commands.append(master.utf8)
            }
        case .servers(let places):
            guard link.identity?.isCluster == true else {
                guard places.count == 1 else {
                    throw .notConfigured(
                        "reactions.redis_url is not valid",
                        detail: "It names several servers, and they are not a cluster.", hint: RedisEndpoint.hint)
                }
                state = .found(.server(link))
                return
            }
            try link.send(at: now) { commands in
                commands.begin("CLUSTER", arguments: 1)
                commands.append("SLOTS")
            }
        }
        state = .asking(link)
    }

    private mutating func answered(_ link: RedisLink, _ now: Int64) throws(Failure) {
        if let error = link.replies.error(at: link.answer) { throw .redis(error: error) }
        guard isSentinel else {
            guard let slots = ClusterSlots(link.replies, at: link.answer, from: link.place) else {
                throw .redisNonsense("CLUSTER SLOTS was answered with something else.")
            }
            guard !slots.owners.isEmpty else { throw .redisUnreachable("The cluster has no slots yet.") }
            // A replica, or a master under another name.
            if !slots.owners.contains(link.place) { link.close() }
            state = .found(.cluster(slots))
            return
        }
        guard case .array(2) = link.replies[link.answer],
            let port = UInt16(String(decoding: link.replies.text(at: link.answer &+ 2), as: UTF8.self)),
            let place = RedisPlace.announced(
                host: String(decoding: link.replies.text(at: link.answer &+ 1), as: UTF8.self), port: port,
                by: link.place)
        else {
            throw .redisUnreachable(
                "The sentinel knows no master of this name.", hint: "Check the name in reactions.redis_url.")
        }
        link.close()
        let master = links[place]
        try master.open(at: now, withScripts: withScripts, ignoringBreaker: ignoresBreaker)
        state = .greetingMaster(master)
    }
}

extension ClusterSlots {
    /// The answer to `CLUSTER SLOTS`: arrays of first slot, last slot, master and replicas; nil if it has another shape.
    init?(_ replies: ReplyArena, at position: Int, from server: RedisPlace) {
        guard case .array(let count) = replies[position] else { return nil }
        self.init()
        var range = position &+ 1
        for _ in 0..<count {
            guard case .array(let elements) = replies[range], elements >= 3,
                case .integer(let first) = replies[range &+ 1], case .integer(let last) = replies[range &+ 2],
                first >= 0, first <= last, last < ClusterSlots.count,
                case .array(let parts) = replies[range &+ 3], parts >= 2,
                case .integer(let number) = replies[range &+ 5], let port = UInt16(exactly: number)
            else { return nil }
            let host = String(decoding: replies.text(at: range &+ 4), as: UTF8.self)
            if let place = RedisPlace.announced(host: host, port: port, by: server) {
                assign(Int(first)...Int(last), to: place)
            }
            range = replies.position(after: range)
        }
    }
}
