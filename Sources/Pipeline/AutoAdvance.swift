/// Which types are tried for their next phase, and what is said of it.
public struct AutoAdvance: Sendable {
    /// A type that leaves its phase by itself.
    public struct Standing: Equatable, Sendable {
        public var entityType: String
        public var phase: String
        /// It has been in the phase for as long as it is to stay.
        public var isDue: Bool

        public init(entityType: String, phase: String, isDue: Bool) {
            self.entityType = entityType
            self.phase = phase
            self.isDue = isDue
        }
    }

    private struct Trial: Sendable {
        var phase: String
        var at: Duration
        var refusal: String?
    }

    /// Readiness costs PostgreSQL some queries.
    static let interval: Duration = .seconds(60)

    private var trials: [String: Trial] = [:]

    public init() {}

    /// The types that are due and were not tried lately. What left its phase is forgotten.
    public mutating func looked(_ standings: [Standing], now: Duration) -> [Standing] {
        let due = standings.filter(\.isDue)
        trials = trials.filter { type, trial in due.contains { $0.entityType == type && $0.phase == trial.phase } }
        let tried = due.filter { standing in trials[standing.entityType].map { now - $0.at >= Self.interval } ?? true }
        for standing in tried {
            trials[standing.entityType] = Trial(
                phase: standing.phase, at: now, refusal: trials[standing.entityType]?.refusal)
        }
        return tried
    }

    /// Whether this is worth a line in the log: the same reason is told once.
    public mutating func refused(_ standing: Standing, _ reason: String) -> Bool {
        guard let before = trials[standing.entityType], before.refusal != reason else { return false }
        trials[standing.entityType]?.refusal = reason
        return true
    }
}
