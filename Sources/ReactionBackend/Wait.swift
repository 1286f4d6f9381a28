import CReactionsBoundary

/// What an exchange waits for. Times in milliseconds.
enum Wait: Equatable {
    /// A connection's number, for a waiter that keeps something for it; 0 without one.
    case readable(Int32, Int64, connection: UInt64 = 0)
    case writable(Int32, Int64)
    case timer(Int64)

    /// The same, but no longer than `limit`.
    func atMost(_ limit: Int64) -> Wait {
        switch self {
        case .readable(let socket, let time, let connection):
            .readable(socket, min(time, limit), connection: connection)
        case .writable(let socket, let time): .writable(socket, min(time, limit))
        case .timer(let time): .timer(min(time, limit))
        }
    }

    var forC: rx_wait {
        switch self {
        case .readable(let socket, let time, let connection):
            rx_wait(RX_WAIT_READ, socket: socket, milliseconds: time, connection: connection)
        case .writable(let socket, let time): rx_wait(RX_WAIT_WRITE, socket: socket, milliseconds: time)
        case .timer(let time): rx_wait(RX_WAIT_TIMER, milliseconds: time)
        }
    }
}

extension rx_wait {
    init(_ action: rx_action, socket: Int32 = -1, milliseconds: Int64 = 0, connection: UInt64 = 0) {
        self.init(
            action: Int32(bitPattern: action.rawValue), fd: socket,
            timeout_ms: Int32(clamping: milliseconds), connection: connection)
    }
}
