import Foundation
import Glibc
import Synchronization

/// A TCP proxy on a loopback port that breaks one conversation in a given way, the next time a client's bytes contain a given text, or
/// every one that does.
public final class FaultProxy: Sendable {
    public enum Fault: Sendable {
        /// Passes the given number of the client's bytes on, from the beginning of those that contain the text, then resets both sides.
        case cutRequest(afterBytes: Int)
        /// Passes the request on, and resets the client when the server answers. The answer is thrown away.
        case loseAnswer
        /// Passes the request on, and keeps the answer back until `release()`.
        case holdAnswer
        /// Passes the request on up to where the text is in it for the last time, and keeps the rest back until `release()`.
        case holdRequest
        /// Passes nothing on any more and leaves the connections open.
        case hang
    }

    private struct Trap {
        var text: String
        var fault: Fault
        var isLasting = false
    }

    public let port: UInt16
    private let target: UInt16
    private let listener: Int32
    private let trap = Mutex<Trap?>(nil)
    private let sprung = Mutex(0)
    private let released = DispatchSemaphore(value: 0)

    /// - Parameter target: the server's port on the loopback interface.
    public init(target: UInt16) throws {
        self.target = target
        self.port = try FreePort.next()
        let listener = Socket.open()
        self.listener = listener
        guard Socket.withLoopback(port, { bind(listener, $0, $1) }) == 0, listen(listener, 64) == 0 else {
            throw TestSupportError("cannot listen on port \(port)")
        }
        Thread.detachNewThread { [weak self] in
            while true {
                let client = accept(listener, nil, nil)
                guard client >= 0, let self else { return }
                self.serve(client)
            }
        }
    }

    deinit {
        shutdown(listener, Int32(SHUT_RDWR))
        close(listener)
    }

    /// How many conversations were broken; one of which something is kept back counts when that is so.
    public var faults: Int { sprung.withLock { $0 } }

    public func breakNext(containing text: String, _ fault: Fault) {
        trap.withLock { $0 = Trap(text: text, fault: fault) }
    }

    public func breakEvery(containing text: String, _ fault: Fault) {
        trap.withLock { $0 = Trap(text: text, fault: fault, isLasting: true) }
    }

    /// From here on everything is passed on.
    public func mend() { trap.withLock { $0 = nil } }

    /// Lets go of what was kept back.
    public func release() { released.signal() }

    private func serve(_ client: Int32) {
        let server = Socket.open()
        guard Socket.withLoopback(target, { connect(server, $0, $1) }) == 0 else {
            Socket.reset(client)
            close(server)
            return
        }
        let conversation = Conversation(client: client, server: server)
        Thread.detachNewThread { self.passRequests(conversation) }
        Thread.detachNewThread { self.passAnswers(conversation) }
    }

    private func passRequests(_ conversation: Conversation) {
        defer { conversation.finished() }
        var buffer = [UInt8](repeating: 0, count: 65_536)
        var budget: Int?
        while true {
            let count = read(conversation.client, &buffer, buffer.count)
            guard count > 0 else { return conversation.end(reset: count < 0) }
            var start = 0
            if let (fault, place) = spring(on: buffer[..<count]) {
                switch fault {
                case .cutRequest(let bytes): budget = bytes
                case .loseAnswer: conversation.losesAnswer.withLock { $0 = true }
                case .holdAnswer: conversation.holdsAnswer.withLock { $0 = true }
                case .holdRequest:
                    guard Socket.writeAll(conversation.server, buffer[..<place]) else {
                        return conversation.end(reset: true)
                    }
                    sprung.withLock { $0 += 1 }
                    released.wait()
                    start = place
                case .hang: return
                }
            }
            let passed = min(count, budget ?? count)
            guard Socket.writeAll(conversation.server, buffer[start..<passed]) else {
                return conversation.end(reset: true)
            }
            if let left = budget {
                budget = left - passed
                if left == passed { return conversation.end(reset: true) }
            }
        }
    }

    private func passAnswers(_ conversation: Conversation) {
        defer { conversation.finished() }
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = read(conversation.server, &buffer, buffer.count)
            guard count > 0 else { return conversation.end(reset: count < 0) }
            if conversation.losesAnswer.withLock({ $0 }) { return conversation.end(reset: true) }
            if conversation.holdsAnswer.withLock({ held in
                defer { held = false }; return held
            }) {
                sprung.withLock { $0 += 1 }
                released.wait()
            }
            guard Socket.writeAll(conversation.client, buffer[..<count]) else { return conversation.end(reset: true) }
        }
    }

    /// The fault, and where the text is for the last time. One that holds something back counts when it does.
    private func spring(on bytes: ArraySlice<UInt8>) -> (Fault, place: Int)? {
        trap.withLock { trap in
            guard let found = trap, let place = Data(bytes).range(of: Data(found.text.utf8), options: .backwards) else {
                return nil
            }
            if !found.isLasting { trap = nil }
            switch found.fault {
            case .holdAnswer, .holdRequest: break
            case .cutRequest, .loseAnswer, .hang: sprung.withLock { $0 += 1 }
            }
            return (found.fault, place.lowerBound)
        }
    }
}

/// Two sockets and the two threads that read them: the last one closes.
private final class Conversation: Sendable {
    let client: Int32
    let server: Int32
    let losesAnswer = Mutex(false)
    let holdsAnswer = Mutex(false)
    private let readers = Mutex(2)

    init(client: Int32, server: Int32) {
        self.client = client
        self.server = server
    }

    /// Wakes the other thread.
    func end(reset: Bool) {
        for descriptor in [client, server] {
            if reset { Socket.resetOnClose(descriptor) }
            shutdown(descriptor, Int32(SHUT_RD))
        }
    }

    func finished() {
        let left = readers.withLock { readers in
            readers -= 1
            return readers
        }
        guard left == 0 else { return }
        close(client)
        close(server)
    }
}
