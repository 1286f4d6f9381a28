import RedisStore

/// The bytes of one connection to Redis: commands on their way out, replies on their way in. Never waits.
final class RedisStream {
    /// What has to happen before bytes can move.
    enum Need {
        case readable(Int32)
        case writable(Int32)
    }

    private var socket: StreamSocket?
    private var unsent: ArraySlice<UInt8> = []
    /// How many replies were asked for since the last conversation began.
    private(set) var expectedReplies = 0
    private let reader = ReplyReader()

    deinit {
        socket?.close()
    }

    var replies: ReplyArena { reader.replies }

    /// Whether the connection is open and has nothing to say that nobody asked for.
    var isQuiet: Bool { socket?.isQuiet == true }

    func close() {
        socket?.close()
        socket = nil
        unsent = []
        reader.reset()
    }

    // MARK: Connecting

    /// Begins to connect; nil if that went well.
    func connect(to address: ResolvedAddress) -> SystemError? {
        socket?.close()
        socket = nil
        switch StreamSocket.connect(to: address) {
        case .success(let socket):
            self.socket = socket
            return nil
        case .failure(let error):
            return error
        }
    }

    enum Connecting {
        case needs(Need)
        case connected
        case failed(SystemError)
    }

    func finishConnecting() throws(Failure) -> Connecting {
        let socket = try openSocket()
        guard socket.isWritable else { return .needs(.writable(socket.descriptor)) }
        return socket.connectError().map { .failed($0) } ?? .connected
    }

    // MARK: Talking

    func begin(_ commands: CommandBuffer) {
        reader.startConversation()
        unsent = commands.bytes[...]
        expectedReplies = commands.commandCount
    }

    /// Moves bytes; nil when every reply is there.
    func transfer() throws(Failure) -> Need? {
        let socket = try openSocket()
        if !unsent.isEmpty {
            try send(to: socket)
            // An answer takes longer than it takes to get here again.
            return unsent.isEmpty ? .readable(socket.descriptor) : .writable(socket.descriptor)
        }
        while reader.replyCount < expectedReplies {
            if try !receive(from: socket) { return .readable(socket.descriptor) }
        }
        guard reader.replyCount == expectedReplies else {
            throw .redisNonsense("There were more replies than commands.")
        }
        return nil
    }

    private func openSocket() throws(Failure) -> StreamSocket {
        guard let socket else { throw .brokenContract("The connection to Redis has no socket.") }
        return socket
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
}
