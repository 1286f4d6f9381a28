import CReactionsBoundary
import RedisStore

/// The backend's one connection to Redis.
///
/// A conversation is `open`, then any number of times `send`, each followed by `advance` until it returns nil. Nothing here waits:
/// `advance` moves what bytes it can and says what it waits for. Between `send` and the last reply the connection is in an unknown
/// state: whoever gives up then calls `close`, so that a late reply is never taken for the next one. A connection that was idle is
/// looked at before it is used again; if the peer has closed it, it is replaced before anything is sent, and never afterwards, since
/// a command may have been carried out.
///
/// Every failure closes the connection and counts against the breaker. Errors that Redis itself answers do neither.
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

    private let settings: Settings
    private let tally: Tally
    private var breaker = Breaker()
    private var lastFailure: Failure?
    private var addresses: [ResolvedAddress] = []
    private var untried: ArraySlice<ResolvedAddress> = []

    private(set) var state = State.closed
    /// Rises with every connection: what was read on one says nothing about the next.
    private(set) var serial: UInt64
    private(set) var runID: [UInt8] = []
    /// Nil until scripts are wanted on the connection.
    private(set) var digests: ScriptDigests?
    private var wantsScripts = false
    /// Whether Redis has the scripts, as far as is known; it forgets them on SCRIPT FLUSH.
    private var hasScripts = false

    private var socket: StreamSocket?
    private var deadline = Deadline(after: 0, from: 0)
    private var unsent: ArraySlice<UInt8> = []
    private var expectedReplies = 0
    private let reader = ReplyReader()

    private var commands = CommandBuffer()
    private var usesScripts = false
    private var mayRetry = false
    /// Where in `replies` the answer to what was sent begins.
    private(set) var answer = 0

    /// - Parameter serial: of the last connection of the link before this one.
    init(settings: Settings, tally: Tally, after serial: UInt64 = 0) {
        self.settings = settings
        self.tally = tally
        self.serial = serial
    }

    deinit {
        socket?.close()
    }

    var replies: ReplyArena { reader.replies }

    /// Whether there is an idle connection that can be used without connecting.
    var isReady: Bool {
        guard case .idle = state, let socket else { return false }
        if socket.isQuiet { return true }
        close()
        return false
    }

    /// Makes sure of a connection; `advance` until nil, then it is idle.
    ///
    /// - Parameter withScripts: whether the scripts are loaded as well, whose digests are known then. A session that finds what it
    ///   reads in Redis never needs them.
    func open(at now: Int64, withScripts: Bool = false, ignoringBreaker: Bool = false) throws(Failure) {
        wantsScripts = withScripts
        if isReady {
            if withScripts, digests == nil { startLoading(now) }
            return
        }
        guard case .closed = state else { throw .brokenContract("A conversation with Redis was begun within another.") }
        let endpoint = try settings.redis.get()
        guard breaker.allowsAttempt(at: now) || ignoringBreaker else {
            var failure = lastFailure ?? .redisUnreachable("")
            failure.hint = "Redis has failed repeatedly and is left alone for a moment."
            throw failure
        }
        if addresses.isEmpty { addresses = Self.resolve(endpoint.place) }
        guard !addresses.isEmpty else { throw recorded(.redisUnreachable("The host name cannot be resolved."), now) }
        untried = addresses[...]
        deadline = Deadline(after: settings.redisConnectTimeout, from: now)
        try connectToNext(now)
    }

    /// Sends commands on the idle connection; `advance` until nil, then the replies begin at `answer`.
    ///
    /// - Parameters:
    ///   - mayRetry: whether scripts that Redis has forgotten are loaded and the commands sent again.
    ///   - compose: appends the commands to the link's buffer.
    func send(
        usesScripts: Bool = false, mayRetry: Bool = true, at now: Int64, _ compose: (inout CommandBuffer) -> Void
    ) throws(Failure) {
        guard case .idle = state else {
            throw .brokenContract("A command was sent to Redis outside of a conversation.")
        }
        commands.removeAll()
        compose(&commands)
        self.usesScripts = usesScripts
        self.mayRetry = usesScripts && mayRetry && hasScripts
        deadline = Deadline(after: settings.redisTimeout, from: now)
        startTalking()
    }

    /// Moves bytes. Returns what it waits for, or nil when the connection is idle.
    func advance(_ now: Int64) throws(Failure) -> Wait? {
        do throws(Failure) { return try move(now) } catch { throw recorded(error, now) }
    }

    func close() {
        socket?.close()
        socket = nil
        state = .closed
        unsent = []
        reader.reset()
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
                runID = try RedisHandshake.runID(in: replies, settings)
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

    private static func resolve(_ place: RedisEndpoint.Place) -> [ResolvedAddress] {
        switch place {
        case .tcp(let host, let port): ResolvedAddress.resolve(host: host, port: port)
        case .unixSocket(let path): ResolvedAddress.unixSocket(path: path).map { [$0] } ?? []
        }
    }

    private func connectToNext(_ now: Int64) throws(Failure) {
        var problem = SystemError(number: 0)
        while let address = untried.popFirst() {
            switch StreamSocket.connect(to: address) {
            case .success(let socket):
                self.socket = socket
                state = .connecting
                return
            case .failure(let error):
                problem = error
            }
        }
        throw recorded(.redisUnreachable("\(problem.text)."), now)
    }

    private func finishConnecting(_ now: Int64) throws(Failure) -> Wait? {
        guard let socket else { throw .brokenContract("The connection to Redis has no socket.") }
        guard socket.isWritable else { return .writable(socket.descriptor, try remaining(now)) }
        if let error = socket.connectError() {
            socket.close()
            self.socket = nil
            guard !untried.isEmpty else { throw .redisUnreachable("\(error.text).") }
            try connectToNext(now)
            return nil
        }
        serial &+= 1
        tally.counters.redis_connects &+= 1
        startConversation(RedisHandshake.commands(settings), as: .handshaking)
        return nil
    }

    private func startLoading(_ now: Int64) {
        deadline = Deadline(after: settings.redisTimeout, from: now)
        startConversation(RedisHandshake.loadingCommands(), as: .loading)
    }

    // MARK: Talking

    private func startTalking() {
        guard usesScripts, !hasScripts else { return startConversation(commands, as: .talking) }
        var both = RedisHandshake.loadingCommands()
        both.append(commandsOf: commands)
        startConversation(both, as: .talking)
    }

    private func startConversation(_ commands: CommandBuffer, as state: State) {
        self.state = state
        reader.startConversation()
        unsent = commands.bytes[...]
        expectedReplies = commands.commandCount
        tally.counters.redis_round_trips &+= 1
    }

    private func finishTalking() throws(Failure) {
        breaker.succeeded()
        state = .idle
        answer = 0
        for _ in 0..<expectedReplies - commands.commandCount {
            if let error = replies.error(at: answer) { throw .redis(error: error) }
            answer = replies.position(after: answer)
        }
        guard usesScripts else { return }
        hasScripts = true
        var position = answer
        for _ in 0..<commands.commandCount {
            if replies.error(at: position)?.starts(with: "NOSCRIPT".utf8) == true { hasScripts = false }
            position = replies.position(after: position)
        }
        if !hasScripts, mayRetry {
            mayRetry = false
            startTalking()
        }
    }

    private func transfer(_ now: Int64) throws(Failure) -> Wait? {
        guard let socket else { throw .brokenContract("The connection to Redis has no socket.") }
        if !unsent.isEmpty {
            try send(to: socket)
            // An answer takes longer than it takes to get here again.
            return unsent.isEmpty
                ? .readable(socket.descriptor, try remaining(now), connection: serial)
                : .writable(socket.descriptor, try remaining(now))
        }
        while reader.replyCount < expectedReplies {
            if try !receive(from: socket) {
                return .readable(socket.descriptor, try remaining(now), connection: serial)
            }
        }
        guard reader.replyCount == expectedReplies else {
            throw .redisNonsense("There were more replies than commands.")
        }
        return nil
    }

    /// Sends what the socket takes.
    private func send(to socket: StreamSocket) throws(Failure) {
        while !unsent.isEmpty {
            switch unsent.withUnsafeBytes(socket.send) {
            case .moved(let count): unsent = unsent.dropFirst(count)
            case .wouldBlock: return
            case .ended: throw .redisUnreachable("The server has closed the connection.")
            case .failed(let number): throw .redisUnreachable("\(SystemError(number: number).text).")
            }
        }
        // Not even an empty slice: the buffer is written to again only while nobody else holds it.
        unsent = []
    }

    /// Returns whether anything came.
    private func receive(from socket: StreamSocket) throws(Failure) -> Bool {
        let outcome = withUnsafeTemporaryAllocation(byteCount: 64 << 10, alignment: 16) {
            buffer -> Result<Bool, Failure> in
            switch socket.receive(into: buffer) {
            case .wouldBlock: return .success(false)
            case .ended: return .failure(.redisUnreachable("The server has closed the connection."))
            case .failed(let number): return .failure(.redisUnreachable("\(SystemError(number: number).text)."))
            case .moved(let count):
                do throws(ReplyReader.Problem) {
                    try reader.feed(UnsafeRawBufferPointer(rebasing: buffer.prefix(count)))
                    return .success(true)
                } catch {
                    return .failure(.redis(problem: error))
                }
            }
        }
        return try outcome.get()
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

extension Failure {
    /// An error that Redis answered, judged by its first word.
    static func redis(error text: some Collection<UInt8>) -> Failure {
        let detail = "The server says: \(String(decoding: text.prefix(200), as: UTF8.self))"
        return switch String(decoding: text.prefix { $0 != UInt8(ascii: " ") }, as: UTF8.self) {
        case "NOAUTH", "WRONGPASS", "NOPERM", "DENIED": .redisRefused(detail)
        case "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "OOM", "MISCONF", "NOREPLICAS":
            .redisUnreachable(detail)
        case "WRONGTYPE":
            .redisNonsense(
                detail,
                hint:
                    "The key was made by another program. Use another reactions.key_prefix, or drop it by reactions.invalidate."
            )
        default: .redisNonsense(detail)
        }
    }

    static func redis(problem: ReplyReader.Problem) -> Failure {
        switch problem {
        case .outOfMemory: .redisUnreachable("There is not enough memory for the reply.")
        case .protocolViolation: .redisNonsense("The reply breaks the protocol.")
        case .tooLong: .redisNonsense("The reply is too long.")
        }
    }
}
