import CReactionsBoundary
import RedisStore

/// Redis as exchanges see it: one server, the master that sentinels name, or the masters of a cluster.
///
/// A conversation is `open`, then any number of times `send`, each followed by `advance` until it returns nil. It goes as with one
/// server (`RedisLink`), with two differences. Who has answered a command is known only afterwards (`server(of:)`), and a stamp is
/// made of that server's history. And what names a stamp is for the server of that stamp and no other: it is sent `to` it, follows no
/// redirection, and if the slot has moved the answer is the redirection. So a stamp is never written to a server that is not its own.
final class Redis {
    private enum Topology {
        case unknown
        case server(RedisLink)
        case cluster(ClusterSlots)
    }

    private enum Activity {
        case none
        case finding
        case opening(RedisLink)
        case talking(RedisLink)
        case routing(ClusterTalk)
    }

    private let settings: Settings
    private let links: RedisLinks
    private var topology = Topology.unknown
    private var activity = Activity.none
    private var discovery: RedisDiscovery?
    /// Whether what is known of the cluster may be out of date, and when it was asked for last.
    private var isOutdated = false
    private var foundAt: Int64 = 0
    /// Milliseconds between two questions for the slots.
    private static let shortestInterval: Int64 = 100

    private var ordered = ReplyArena()
    private var servers: [RedisLink?] = []
    /// The only one who has answered; its answers stay where they are.
    private var only: RedisLink?
    /// Where in `replies` the answer to what was sent begins.
    private(set) var answer = 0

    init(settings: Settings, tally: Tally) {
        self.settings = settings
        links = RedisLinks(settings: settings, tally: tally)
    }

    /// The answers of the last conversation, in the order of the commands.
    var replies: ReplyArena { only?.replies ?? ordered }

    /// Known once a conversation was opened.
    var isCluster: Bool {
        if case .cluster = topology { true } else { false }
    }

    /// Who has answered a command of the last conversation; nil if nobody has.
    func server(of command: Int) -> RedisLink? {
        only ?? (servers.indices.contains(command) ? servers[command] : nil)
    }

    /// Who would be asked for a key, as far as is known.
    func server(for key: [UInt8]) -> RedisLink? {
        switch topology {
        case .unknown: nil
        case .server(let link): link
        case .cluster(let slots): slots[ClusterSlots.slot(of: key[...])].map { links[$0] }
        }
    }

    /// Every server that has keys, as far as is known.
    var masters: [RedisLink] {
        switch topology {
        case .unknown: []
        case .server(let link): [link]
        case .cluster(let slots): slots.masters.map { links[$0] }
        }
    }

    /// How many slots of the cluster nobody is known to have.
    var slotsWithoutMaster: Int {
        if case .cluster(let slots) = topology { slots.unknownCount } else { 0 }
    }

    // MARK: Conversations

    /// Makes sure that it is known who to ask, and of a single server's connection; `advance` until nil.
    ///
    /// - Parameter withScripts: whether a single server has the scripts loaded.
    func open(at now: Int64, withScripts: Bool = false, ignoringBreaker: Bool = false) throws(Failure) {
        var known: [RedisPlace] = []
        switch topology {
        case .server(let link):
            if link.reuse(at: now, withScripts: withScripts) { return activity = .opening(link) }
        case .cluster(let slots):
            guard isOutdated, now &- foundAt >= Self.shortestInterval else { return activity = .none }
            // Those who are connected first: one that is down would be waited for.
            known = slots.masters.filter { links[$0].isIdle } + slots.masters.filter { !links[$0].isIdle }
        case .unknown: break
        }
        let endpoint = try settings.redis.get()
        foundAt = now
        discovery = RedisDiscovery(
            endpoint.way, known: known, links: links, withScripts: withScripts, ignoringBreaker: ignoringBreaker)
        activity = .finding
    }

    /// Makes sure of a connection to a server; `advance` until nil.
    func open(
        _ link: RedisLink, at now: Int64, withScripts: Bool = false, ignoringBreaker: Bool = false
    ) throws(Failure) {
        try link.open(at: now, withScripts: withScripts, ignoringBreaker: ignoringBreaker)
        activity = .opening(link)
    }

    /// Sends commands to whom their keys belong; `advance` until nil. In a cluster a command whose server is down is answered with an
    /// error; `advance` fails only if nobody has answered anything.
    ///
    /// - Parameters:
    ///   - mayRetry: whether scripts that Redis has forgotten are loaded and the commands sent again.
    func send(
        usesScripts: Bool = false, mayRetry: Bool = true, at now: Int64, _ compose: (inout CommandBuffer) -> Void
    ) throws(Failure) {
        switch topology {
        case .unknown: throw .brokenContract("A command was sent to Redis outside of a conversation.")
        case .server(let link):
            try link.send(usesScripts: usesScripts, mayRetry: mayRetry, at: now, compose)
            activity = .talking(link)
        case .cluster(let slots):
            var commands = CommandBuffer()
            compose(&commands)
            activity = .routing(
                ClusterTalk(
                    commands, usesScripts: usesScripts, slots: slots, links: links,
                    until: Deadline(after: settings.redisTimeout, from: now)))
        }
    }

    /// Sends commands on the idle connection to this server alone, whatever redirection it answers with; `advance` until nil.
    func send(
        to link: RedisLink, usesScripts: Bool = false, at now: Int64, _ compose: (inout CommandBuffer) -> Void
    ) throws(Failure) {
        var isAsking = false
        if case .cluster(let slots) = topology {
            var commands = CommandBuffer()
            compose(&commands)
            // The server has been asked for a key on its way to it, and answered: so it is spoken of the same key again.
            isAsking = commands.slot(of: 0).map { slots[$0] != link.place } ?? false
            try link.send(usesScripts: usesScripts, isAsking: isAsking, at: now) { $0.append(commandsOf: commands) }
        } else {
            try link.send(usesScripts: usesScripts, at: now, compose)
        }
        activity = .talking(link)
    }

    /// Moves bytes. Returns what it waits for, or nil when the conversation can go on.
    func advance(_ now: Int64) throws(Failure) -> Wait? {
        do throws(Failure) {
            if let wait = try move(now) { return wait }
            activity = .none
            return nil
        } catch {
            activity = .none
            isOutdated = true
            throw error
        }
    }

    /// Gives up the conversation.
    func abandon() {
        activity = .none
        links.abandon()
    }

    func close() {
        activity = .none
        links.close()
    }

    private func move(_ now: Int64) throws(Failure) -> Wait? {
        switch activity {
        case .none: return nil
        case .finding:
            if let wait = try discovery?.advance(now) { return wait }
            try found(discovery?.finding)
            discovery = nil
        case .opening(let link):
            return try link.advance(now)
        case .talking(let link):
            if let wait = try link.advance(now) { return wait }
            only = link
            answer = link.answer
            noteMove(link)
        case .routing(let talk):
            if let wait = try talk.advance(now) { return wait }
            take(talk)
        }
        return nil
    }

    private func found(_ finding: RedisDiscovery.Finding?) throws(Failure) {
        isOutdated = false
        switch finding {
        case .server(let link): topology = .server(link)
        case .cluster(let slots):
            guard KeySpace.suitsCluster(prefix: settings.keyPrefix) else {
                throw .notConfigured("reactions.key_prefix is not valid", detail: KeySpace.unsuitablePrefix)
            }
            topology = .cluster(slots)
        case nil: throw .brokenContract("Nobody to ask was found.")
        }
    }

    private func take(_ talk: ClusterTalk) {
        topology = .cluster(talk.routing.slots)
        if talk.routing.isOutdated { isOutdated = true }
        servers = talk.servers
        only = talk.only
        (ordered, answer) = talk.replies
    }

    /// Learns from an answer that was not followed who has the slot now.
    func noteMove(_ link: RedisLink) {
        guard case .cluster(var slots) = topology, let error = link.replies.error(at: link.answer),
            case .moved(let slot, let place) = Redirection(error, from: link.place)
        else { return }
        slots.assign(slot...slot, to: place)
        topology = .cluster(slots)
        isOutdated = true
    }
}
