internal import Pipeline
internal import PostgresSource
internal import Synchronization

/// Counters and gauges, in Prometheus's text format. Names are `reactiond_<subsystem>_<what>_<unit>`.
public final class Metrics: Sendable {
    public enum Role: String, Sendable {
        case connecting
        case following
        case leading
    }

    struct Values {
        var role = Role.connecting
        var isRedisFailing = false
        var isSinkFailing = false
        var behind = Mirror.Behind()
        var formedBatches: UInt64 = 0
        var finishedBatches: UInt64 = 0
        var finishedEvents: UInt64 = 0
        var lastFinished: Double = 0
        var insertedEvents: UInt64 = 0
        var appliedEvents: UInt64 = 0
        var offeredRemovals: UInt64 = 0
        var countedEvents: UInt64 = 0
        var writtenEntities: UInt64 = 0
        var changedEntities: UInt64 = 0
        var installedEntities: UInt64 = 0
        var droppedEntities: UInt64 = 0
        var foreignEntities: UInt64 = 0
        var promotedEntities: UInt64 = 0
        var demotedEntities: UInt64 = 0
        /// Users, and the seconds that the first of them has waited; nil as long as it is not known.
        var erasures: (pending: Int, oldest: Double)?
        var parkedEvents: UInt64 = 0
        var resentChunks: UInt64 = 0
        var redisFailures: UInt64 = 0
        var sinkFailures: UInt64 = 0
        var postgresFailures: UInt64 = 0
        var raisedEpochs: UInt64 = 0
        var lag = LagHistogram()
        var matches: [MatchReport] = []
        /// Nil if there was none.
        var reconciliation: ReconcileReport?
        /// Of this agent, by itself.
        var finishedReconciliations: UInt64 = 0
        var failedReconciliations: UInt64 = 0
        /// Seconds; nil for none by itself.
        var reconcileInterval: Double?
        /// Seconds; nil as long as it is not known.
        var outboxAge: Double?
        /// Nil as long as they are not known, or if no session knows more than its own.
        var backends: BackendCounters?
        /// Nil as long as it is not known which there are.
        var redisServers: [RedisNode]?
        /// By entity type.
        var phases: [String: String] = [:]
        /// Of types that are to leave their phase by themselves and have been in it for long enough.
        var unmetConditions: [String: Int] = [:]
    }

    private let values = Mutex(Values())

    public init() {}

    func update(_ change: (inout Values) -> Void) {
        values.withLock { change(&$0) }
    }

    /// Whether this agent does what it is there for: it leads and both servers take events, or it follows.
    public var isReady: Bool {
        values.withLock { values in
            switch values.role {
            case .connecting: false
            case .following: true
            case .leading: !values.isRedisFailing && !values.isSinkFailing
            }
        }
    }

    public var role: Role { values.withLock { $0.role } }

    /// Phases of the types, by name; empty as long as they are not known.
    var phases: [String: String] { values.withLock { $0.phases } }

    /// The page `/metrics`.
    public func text() -> String { MetricsPage(values.withLock { $0 }).text }
}
