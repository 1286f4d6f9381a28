import Glibc
import Synchronization
import TestSupport

/// Runs as many clients at a time, each on a thread of its own, and returns what each has returned.
func runClients<Value: Sendable>(
    _ count: Int, _ body: @escaping @Sendable (_ index: Int) throws -> Value
) async throws -> [Value] {
    try await withThrowingTaskGroup(of: (Int, Value).self) { group in
        for index in 0..<count {
            group.addTask { (index, try await onThread { Result { try body(index) } }.get()) }
        }
        return try await group.reduce(into: []) { $0.append($1) }.sorted { $0.0 < $1.0 }.map(\.1)
    }
}

/// Tells clients to end.
final class EndSignal: Sendable {
    private let value = Atomic(false)
    var isRaised: Bool { value.load(ordering: .relaxed) }
    func raise() { value.store(true, ordering: .relaxed) }
}
