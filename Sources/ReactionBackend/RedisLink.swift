import CReactionsBoundary
import RedisStore

/// The backend's connection to one server: a Redis, a master of a cluster, or a sentinel.
///
/// A conversation is `open`, then any number of times `send`, each followed by `advance` until it returns nil. Nothing here waits:
/// `advance` moves what bytes it can and says what it waits for. Between `send` and the last reply the connection is in an unknown
/// state: whoever gives up then calls `close`, so that a late reply is never taken for the next one. A connection that was idle is
/// looked at before it is used again; if the peer has closed it, it is replaced before anything is sent, and never afterwards, since
/// a command may have been carried out.
///
/// Every failure closes the connection and counts against the server's breaker. Errors that Redis itself answers do neither, except
/// that it is no master any more.
///
/// A server may be demoted while nobody talks to it, and lose data before it is a master again. So with the first commands after a
/// second it is asked again who it is, in the same round trip; `identity` is always the one of the last answer.
final class RedisLink {
    enum State {
        /// Can transition to: connecting.
        case closed
        /// Can transition to: handshaking, closed.
        case connecting
        /// Can transition to: loading, idle, closed.
        case handshaking
        /// Can transition to: idle, closed.
        case loading
        /// Nothing is outstanding. Can transition to: loading, talking, closed.
        case idle
        /// Can transition to: idle, closed.
        case talking
    }

    let place: RedisPlace
    private let login: RedisLogin
    private let settings: Settings
    private let tally: Tally
    private var breaker = Breaker()
    private var lastFailure: Failure?
    private var addresses: [ResolvedAddress] = []
    private var untried: ArraySlice<ResolvedAddress> = []

    private(set) var state = State.closed
    /// The connection's number, of all of the backend's: what was read on one says nothing about the next.
    private(set) var serial: UInt64 = 0
    /// Who the server said it is on this connection; nil before it did.
    private(set) var identity: RedisIdentity?
    /// When it said so last.
    private var identifiedAt: Int64 = 0
    /// Milliseconds.
    private static let identityInterval: Int64 = 1_000
    /// Nil until scripts are wanted on the connection.
    private(set) var digests: ScriptDigests?
    private var wantsScripts = false
    /// Whether Redis has the scripts, as far as is known; it forgets them on SCRIPT FLUSH.
    private var hasScripts = false

    private let stream = RedisStream()
    private var deadline = Deadline(after: 0, from: 0)

    private var commands = CommandBuffer()
    private var usesScripts = false
    private var mayRetry = false
    /// What is sent before the commands.
    private var checksIdentity = false
    private var isAsking = false
    /// Where in `replies` the answer to what was sent begins.
    private(set) var answer = 0

    init(to place: RedisPlace, login: RedisLogin, settings: Settings, tally: Tally) {
        self.place = place
        self.login = login
        self.settings = settings
        self.tally = tally
    }

    var replies: ReplyArena { stream.replies }

    var isIdle: Bool {
        if case .idle = state { true } else { false }
    }

    var isClosed: Bool {
        if case .closed = state { true } else { false }
    }

    /// Whether there is an idle connection that can be used without connecting.
    var isReady: Bool {
        guard case .idle = state else { return false }
        if stream.isQuiet { return true }
        close()
        return false
    }

    /// Uses the connection that there is; `advance` until nil, then it is idle. Returns whether there is one.
    ///
    /// - Parameter withScripts: whether the scripts are loaded as well, whose digests are known then. A session that finds what it
    ///   reads in Redis never needs them.
    func reuse(at now: Int64, withScripts: Bool) -> Bool {
        wantsScripts = withScripts
        guard isReady else { return false }
        if withScripts, digests == nil { startLoading(now) }
        return true
    }

    /// Makes sure of a connection; `advance` until nil, then it is idle.
    func open(at now: Int64, withScripts: Bool = false, ignoringBreaker: Bool = false) throws(Failure) {
        if reuse(at: now, withScripts: withScripts) { return }
        guard case .closed = state else { throw .brokenContract("A conversation with Redis was begun within another.") }
        guard breaker.allowsAttempt(at: now) || ignoringBreaker else {
            var failure = lastFailure ?? .redisUnreachable("")
            failure.hint = "Redis has failed repeatedly and is left alone for a moment."
            throw failure
        }
        if addresses.isEmpty { addresses = Self.resolve(place) }
        guard !addresses.isEmpty else { throw recorded(.redisUnreachable("The host name cannot be resolved."), now) }
        untried = addresses[...]
        deadline = Deadline(after: settings.redisConnectTimeout, from: now)
        try connectToNext(now)
    }

    /// Sends commands on the idle connection; `advance` until nil, then the replies begin at `answer`.
    ///
    /// - Parameters:
    ///   - mayRetry: whether scripts that Redis has forgotten are loaded and the commands sent again.
    ///   - isAsking: whether each command is for a slot that is on its way to the server.
    ///   - compose: appends the commands to the link's buffer.
    func send(
        usesScripts: Bool = false, mayRetry: Bool = true, isAsking: Bool = false, at now: Int64,
        _ compose: (inout CommandBuffer) -> Void
    ) throws(Failure) {
        guard case .idle = state else {
            throw .brokenContract("A command was sent to Redis outside of a conversation.")
        }
        commands.removeAll()
        compose(&commands)
        self.usesScripts = usesScripts
        self.mayRetry = usesScripts && mayRetry && hasScripts
        self.isAsking = isAsking
        checksIdentity = now &- identifiedAt >= Self.identityInterval
        if checksIdentity { identifiedAt = now }
        deadline = Deadline(after: settings.redisTimeout, from: now)
        startTalking()
    }

    /// Moves bytes. Returns what it waits for, or nil when the connection is idle.
    func advance(_ now: Int64) throws(Failure) -> Wait? {
        do throws(Failure) { return try move(now) } catch { throw recorded(error, now) }
    }

    func close() {
        stream.close()
        state = .closed
    }

    private func move(_ now: Int64) throws(Failure) -> Wait? {
        while true {
            switch state {
            case .closed:
                throw .brokenContract("The connection to Redis was closed within a conversation.")
            case .idle:
                return nil
            case .connecting:
                if let wait = try finishConnecting(now) { return wait }
            case .handshaking:
                if let wait = try transfer(now) { return wait }
                identity = try RedisHandshake.identity(in: replies, login)
                identifiedAt = now
                try checkRole()
                digests = nil
                if wantsScripts { startLoading(now) } else { state = .idle }
            case .loading:
                if let wait = try transfer(now) { return wait }
                digests = try RedisHandshake.digests(in: replies)
                hasScripts = true
                state = .idle
            case .talking:
                if let wait = try transfer(now) { return wait }
                try finishTalking()
            }
        }
    }

    // MARK: Connecting

    private static func resolve(_ place: RedisPlace) -> [ResolvedAddress] {
        switch place {
        case .tcp(let host, let port): ResolvedAddress.resolve(host: host, port: port)
        case .unixSocket(let path): ResolvedAddress.unixSocket(path: path).map { [$0] } ?? []
        }
    }

    private func connectToNext(_ now: Int64) throws(Failure) {
        var problem = SystemError(number: 0)
        while let address = untried.popFirst() {
            guard let error = stream.connect(to: address) else { return state = .connecting }
            problem = error
        }
        throw recorded(.redisUnreachable("\(problem.text)."), now)
    }

    private func finishConnecting(_ now: Int64) throws(Failure) -> Wait? {
        switch try stream.finishConnecting() {
        case .needs(let need): return try wait(for: need, now)
        case .connected: break
        case .failed(let error):
            guard !untried.isEmpty else { throw .redisUnreachable("\(error.text).") }
            try connectToNext(now)
            return nil
        }
        serial = tally.nextConnection()
        tally.counters.redis_connects &+= 1
        startConversation(RedisHandshake.commands(login), as: .handshaking)
        return nil
    }

    private func startLoading(_ now: Int64) {
        deadline = Deadline(after: settings.redisTimeout, from: now)
        startConversation(RedisHandshake.loadingCommands(), as: .loading)
    }

    // MARK: Talking

    private func startTalking() {
        let loadsScripts = usesScripts && !hasScripts
        guard checksIdentity || loadsScripts || isAsking else { return startConversation(commands, as: .talking) }
        var all = CommandBuffer()
        if checksIdentity { RedisHandshake.appendCheck(to: &all) }
        if loadsScripts { all.append(commandsOf: RedisHandshake.loadingCommands()) }
        for command in 0..<commands.commandCount {
            if isAsking { all.begin("ASKING", arguments: 0) }
            all.append(command, of: commands)
        }
        startConversation(all, as: .talking)
    }

    private func startConversation(_ commands: CommandBuffer, as state: State) {
        self.state = state
        stream.begin(commands)
        tally.counters.redis_round_trips &+= 1
    }

    private func finishTalking() throws(Failure) {
        breaker.succeeded()
        state = .idle
        answer = 0
        // Of ASKING only the one before the first command: those between them are stepped over by `position(after:)`.
        var before = stream.expectedReplies &- commands.commandCount &* (isAsking ? 2 : 1) &+ (isAsking ? 1 : 0)
        if checksIdentity {
            try takeIdentity()
            before &-= 1
        }
        for _ in 0..<max(before, 0) { try skipReply() }
        guard usesScripts else { return }
        hasScripts = true
        var position = answer
        for _ in 0..<commands.commandCount {
            if let error = replies.error(at: position) {
                if error.starts(with: "NOSCRIPT".utf8) { hasScripts = false }
                if error.starts(with: "READONLY".utf8) { throw .redis(error: error) }
            }
            position = self.position(after: position)
        }
        if !hasScripts, mayRetry {
            mayRetry = false
            checksIdentity = false
            startTalking()
        }
    }

    /// The reply to the command after the one whose reply is at `position`.
    func position(after position: Int) -> Int {
        let next = replies.position(after: position)
        return isAsking ? replies.position(after: next) : next
    }

    private func takeIdentity() throws(Failure) {
        let info = answer
        try skipReply()
        identity?.update(info: replies.text(at: info))
        try checkRole()
    }

    /// A replica of a cluster says itself where its master is.
    private func checkRole() throws(Failure) {
        guard let identity, !identity.isMaster, !identity.isCluster, !identity.isSentinel else { return }
        throw .redisUnreachable("The server is a replica.", hint: "Give the address of the master, or of sentinels.")
    }

    private func skipReply() throws(Failure) {
        if let error = replies.error(at: answer) { throw .redis(error: error) }
        answer = replies.position(after: answer)
    }

    private func transfer(_ now: Int64) throws(Failure) -> Wait? {
        guard let need = try stream.transfer() else { return nil }
        return try wait(for: need, now)
    }

    private func wait(for need: RedisStream.Need, _ now: Int64) throws(Failure) -> Wait {
        switch need {
        case .readable(let socket): .readable(socket, try remaining(now), connection: serial)
        case .writable(let socket): .writable(socket, try remaining(now))
        }
    }

    private func remaining(_ now: Int64) throws(Failure) -> Int64 {
        guard let remaining = deadline.remaining(now) else {
            throw .redisUnreachable("The server did not answer in time.")
        }
        return remaining
    }

    /// Closes the connection and tells the breaker.
    private func recorded(_ failure: Failure, _ now: Int64) -> Failure {
        guard failure.code != RX_ERROR_INTERNAL else { return failure }
        switch state {
        case .closed, .connecting: addresses = []
        case .handshaking, .loading, .idle, .talking: break
        }
        close()
        lastFailure = failure
        tally.counters.redis_failures &+= 1
        if breaker.failed(at: now) { tally.counters.breaker_opened &+= 1 }
        return failure
    }
}
