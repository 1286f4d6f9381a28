import Synchronization

/// Something that one task tells others once.
public final class OnceSignal: Sendable {
    private let state = Mutex(false)

    public init() {}

    public var isRaised: Bool { state.withLock { $0 } }
    public func raise() { state.withLock { $0 = true } }
}
