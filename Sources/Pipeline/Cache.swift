public import ReactionModel

/// Where events are offered as soon as their batch is formed: Redis, or a double in tests.
public protocol Cache: Sendable {
    /// Applies the events of scope `reaction`, in version order, to the user maps that exist. Applying them again changes nothing.
    func apply(_ events: [Event], catalog: [Int16: EntityType]) async throws(CacheError)

    /// Makes the maps of these users absent, under whatever epoch they were made. Returns how many there were.
    @discardableResult
    func drop(_ users: [Int64], of type: EntityType) async throws(CacheError) -> Int
}

/// The cache could not be offered the events. They are offered again until the epoch is raised instead.
public struct CacheError: Error, Sendable {
    public var message: String
    /// Types of which what was offered before is not there any more: a server was given older contents while it ran.
    public var displacedTypes: Set<Int16>

    public init(message: String, displacedTypes: Set<Int16> = []) {
        self.message = message
        self.displacedTypes = displacedTypes
    }
}
