internal import Dispatch

/// Runs an actor's jobs one after the other on a dispatch queue, so that a blocking C library holds a thread of its own and never one
/// of the cooperative pool.
///
/// Safe because: the queue is serial and immutable, and a job is handed to it exactly once.
public final class QueueExecutor: SerialExecutor, @unchecked Sendable {
    private let queue: DispatchQueue

    public init(label: String) {
        queue = DispatchQueue(label: label)
    }

    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let executor = asUnownedSerialExecutor()
        queue.async { job.runSynchronously(on: executor) }
    }
}
