public import PostgresSource

/// `reactiond readiness`, `advance` and `rollback`: what the SQL of these names does, by calling it.
public struct PhaseCommand: Sendable {
    /// A rollback waits for as long as there is something to be written.
    static let longest: Duration = .seconds(30 * 86_400)

    private let phases: Phases

    /// As in the settings.
    public static func duration(_ text: String) -> Duration? { Setting.Form.duration(text) }

    /// - Parameter notice: told what PostgreSQL says meanwhile.
    public init(settings: Settings, name: String, notice: @escaping @Sendable (String) -> Void) {
        var postgres = settings.postgres
        postgres.timeout = Self.longest
        phases = Phases(settings: postgres, as: name, notice: notice)
    }

    public func open() async throws {
        try IncompatibleExtension.check(try await phases.extensionVersion())
    }

    public func readiness(_ entityType: String?) async throws -> [Readiness] {
        try await phases.readiness(entityType).map {
            Readiness(entityType: $0.entityType, conditions: $0.conditions)
        }
    }

    /// - Parameter wait: for how long a type that is not ready is tried again.
    public func advance(_ entityType: String, force: Bool, wait: Duration) async throws {
        // Not ready, or writers left no gap.
        try await insisting(on: ["55000", "55P03"], until: .now + wait) { () async throws(PostgresError) in
            try await phases.advance(entityType, force: force)
        }
    }

    public func rollBack(_ entityType: String) async throws {
        try await phases.rollBack(entityType)
    }
}

/// The conditions of one type's next phase.
public struct Readiness: Sendable, Codable, Equatable {
    public var entityType: String
    public var conditions: [Phases.Condition]

    public var isReady: Bool { conditions.allSatisfy(\.ok) }

    /// For humans: a line for each condition.
    public var table: String {
        guard !conditions.isEmpty else { return "\(entityType)  has no next phase" }
        let width = conditions.map(\.condition.count).max() ?? 0
        let unmet = conditions.count { !$0.ok }
        let lines = conditions.map { row in
            let name = row.condition + String(repeating: " ", count: width - row.condition.count)
            return "  \(row.ok ? "ok    " : "unmet ") \(name)  \(row.actual)"
                + (row.ok ? "" : "; required: \(row.required)")
        }
        return (["\(entityType)  \(unmet == 0 ? "ready" : "\(unmet) of \(conditions.count) conditions unmet")"] + lines)
            .joined(separator: "\n")
    }
}
