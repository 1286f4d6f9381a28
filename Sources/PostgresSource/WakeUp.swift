internal import Glibc

/// Ends a wait on a socket from another thread: a pipe whose reading end is polled together with the socket.
///
/// Safe because: both descriptors are immutable until deinit, and read, write and poll are thread-safe.
final class WakeUp: @unchecked Sendable {
    private let reading: Int32
    private let writing: Int32

    init() {
        var ends: [Int32] = [-1, -1]
        // Without free descriptors the ends stay -1, which poll(2) ignores: waits then end by their deadline only.
        _ = pipe(&ends)
        (reading, writing) = (ends[0], ends[1])
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
    }

    deinit {
        _ = close(reading)
        _ = close(writing)
    }

    func signal() {
        var byte: UInt8 = 1
        _ = write(writing, &byte, 1)
    }

    enum Outcome: Equatable {
        case ready
        case timedOut
        case woken
    }

    /// Waits until the socket is ready for one of `events`, which may be an error to be read from it.
    ///
    /// - Parameter heedsSignals: false in the middle of a conversation; a signal then waits for the next wait that heeds it.
    func wait(
        socket: Int32, events: Int32, until deadline: ContinuousClock.Instant, heedsSignals: Bool
    ) -> Outcome {
        while true {
            var descriptors = [
                pollfd(fd: socket, events: Int16(events), revents: 0),
                pollfd(fd: heedsSignals ? reading : -1, events: Int16(POLLIN), revents: 0),
            ]
            let left = deadline - .now
            guard left > .zero else { return .timedOut }
            let (seconds, attoseconds) = left.components
            let milliseconds = min(seconds, 3600) * 1000 + attoseconds / 1_000_000_000_000_000 + 1
            let count = poll(&descriptors, 2, Int32(milliseconds))
            if count < 0, errno == EINTR { continue }
            if descriptors[1].revents != 0 {
                drain()
                return .woken
            }
            if count != 0 { return .ready }
        }
    }

    private func drain() {
        var bytes = [UInt8](repeating: 0, count: 64)
        while read(reading, &bytes, bytes.count) > 0 {}
    }
}
