import Foundation

/// Polls until the condition holds, and throws if it does not within the limit. The only way a test waits.
///
/// The limit ends a test whose condition never comes true. It says nothing about speed: a machine may have better things to do.
public func eventually(
    within limit: Duration = .seconds(120), _ what: String = "the condition", fileID: StaticString = #fileID,
    line: UInt = #line, _ condition: () async throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + limit
    while try await !condition() {
        guard ContinuousClock.now < deadline else {
            throw TestSupportError("\(fileID):\(line): \(what) did not hold within \(limit)")
        }
        try await Task.sleep(for: .milliseconds(5))
    }
}

/// Whether the body takes less than the limit: at once, or when it is repeated. What a busy machine adds is another time each time,
/// and what the code adds is always there.
///
/// - Parameter body: what is measured, in milliseconds, each time from the beginning.
public func isDone(within limit: Double, _ what: String, attempts: Int = 20, _ body: () async throws -> Double)
    async throws -> Bool
{
    var taken: [Double] = []
    while taken.count < attempts {
        taken.append(try await body())
        if let last = taken.last, last < limit { return true }
    }
    print("\(what): \(taken) ms")
    return false
}

/// A value made once per test process by whoever asks first.
public actor Shared<Value: Sendable> {
    private let make: @Sendable () async throws -> Value
    private var task: Task<Value, any Error>?

    public init(_ make: @escaping @Sendable () async throws -> Value) { self.make = make }

    public var value: Value {
        get async throws {
            let task = self.task ?? Task { [make] in try await make() }
            self.task = task
            return try await task.value
        }
    }
}

/// A name that no other test of any process uses: a database's, or the prefix of keys. Lower case, valid unquoted in SQL.
public func uniqueName(_ prefix: String = "test") -> String {
    prefix + "_" + String(UInt64.random(in: 0...UInt64.max), radix: 36)
}

/// Runs a call that blocks for long on a thread of its own: the threads of Swift's pool are as few as the cores.
public func onThread<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async -> Value {
    await withCheckedContinuation { continuation in
        Thread.detachNewThread { continuation.resume(returning: body()) }
    }
}
