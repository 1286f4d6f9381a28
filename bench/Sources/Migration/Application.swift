import Foundation
import Synchronization
import TestSupport

/// The application: a few sessions that read and write all the time, and a user who is deleted now and then.
final class Application: Sendable {
    private final class Slot: @unchecked Sendable {
        // Safe because: the thread of `start` is its only user until `finish` has waited for it.
        let client: ApplicationClient
        let record = Mutex(ApplicationRecord())
        let hasEnded = DispatchSemaphore(value: 0)
        init(_ client: ApplicationClient) { self.client = client }
    }

    private let slots: [Slot]
    private let ways = Mutex(ApplicationWays())

    init(_ clients: [ApplicationClient]) { slots = clients.map(Slot.init) }

    /// - Parameter rate: statements per second, of all sessions together.
    func start(rate: Int) {
        let pause = 1e6 * Double(slots.count) / Double(rate)
        for slot in slots {
            Thread.detachNewThread { [self] in
                slot.client.work(ways, slot.record, pause: pause)
                slot.hasEnded.signal()
            }
        }
    }

    func move(_ change: (inout ApplicationWays) -> Void) {
        ways.withLock { change(&$0) }
    }

    /// Ends the sessions and returns every reaction that there must be now, by user and image.
    func finish() -> [Int: [Int: Int]] {
        move { $0.isOver = true }
        var all: [Int: [Int: Int]] = [:]
        for slot in slots {
            slot.hasEnded.wait()
            all.merge(slot.client.reactions) { first, _ in first }
        }
        return all
    }

    /// What all sessions together have seen so far; an error that no application expects is thrown.
    func record() throws -> ApplicationRecord {
        var sum = ApplicationRecord()
        for slot in slots {
            let one = slot.record.withLock { $0 }
            if let failure = one.failure { throw BenchmarkError("the application failed: \(failure)") }
            sum.reads += one.reads
            sum.writes += one.writes
            sum.retried += one.retried
            sum.unknownReads += one.unknownReads
            sum.lateReads += one.lateReads
            sum.longestLate = max(sum.longestLate, one.longestLate)
            sum.wrongReads += one.wrongReads
        }
        return sum
    }
}
