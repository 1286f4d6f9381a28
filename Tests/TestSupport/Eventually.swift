import Foundation

/// Polls until the condition holds, and throws if it does not within the limit. The only way a test waits.
public func eventually(
    within limit: Duration = .seconds(20), _ what: String = "the condition", fileID: StaticString = #fileID,
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
