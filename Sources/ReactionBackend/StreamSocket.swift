import Glibc

/// A non-blocking stream socket.
struct StreamSocket {
    enum Transfer {
        case moved(Int)
        case wouldBlock
        /// The peer has closed the connection.
        case ended
        case failed(errno: Int32)
    }

    let descriptor: Int32

    /// Begins to connect; `finishConnecting` tells how it ended once the socket is writable.
    static func connect(to address: ResolvedAddress) -> Result<StreamSocket, SystemError> {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let socket = StreamSocket(descriptor: Glibc.socket(address.family, type, 0))
        guard socket.descriptor >= 0 else { return .failure(SystemError(number: errno)) }
        if address.family != AF_UNIX {
            socket.enable(IPPROTO_TCP, TCP_NODELAY)
            socket.enable(SOL_SOCKET, SO_KEEPALIVE)
        }
        let status = address.withSocketAddress { Glibc.connect(socket.descriptor, $0, $1) }
        guard status == 0 || errno == EINPROGRESS || errno == EINTR else {
            let number = errno
            socket.close()
            return .failure(SystemError(number: number))
        }
        return .success(socket)
    }

    /// Nil once connected.
    func connectError() -> SystemError? {
        var number: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &number, &length) == 0 else {
            return SystemError(number: errno)
        }
        return number == 0 ? nil : SystemError(number: number)
    }

    /// Whether the socket can be written now, without waiting.
    var isWritable: Bool {
        var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        return poll(&entry, 1, 0) == 1
    }

    func send(_ bytes: UnsafeRawBufferPointer) -> Transfer {
        outcome(of: Glibc.send(descriptor, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL)))
    }

    func receive(into buffer: UnsafeMutableRawBufferPointer, peeking: Bool = false) -> Transfer {
        let count = recv(descriptor, buffer.baseAddress, buffer.count, peeking ? Int32(MSG_PEEK) : 0)
        return count == 0 ? .ended : outcome(of: count)
    }

    /// Whether an idle connection is still open and has nothing to say that nobody asked for.
    var isQuiet: Bool {
        withUnsafeTemporaryAllocation(byteCount: 1, alignment: 1) { buffer in
            if case .wouldBlock = receive(into: buffer, peeking: true) { true } else { false }
        }
    }

    func close() {
        _ = Glibc.close(descriptor)
    }

    private func enable(_ level: some BinaryInteger, _ option: Int32) {
        var on: Int32 = 1
        setsockopt(descriptor, Int32(level), option, &on, socklen_t(MemoryLayout<Int32>.size))
    }

    private func outcome(of count: Int) -> Transfer {
        guard count < 0 else { return .moved(count) }
        return errno == EAGAIN || errno == EINTR ? .wouldBlock : .failed(errno: errno)
    }
}

/// An error number of the operating system.
struct SystemError: Error {
    var number: Int32

    var text: String {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
            guard let start = buffer.baseAddress, strerror_r(number, start, buffer.count) == 0 else { return "error" }
            return String(cString: start)
        }
    }
}
