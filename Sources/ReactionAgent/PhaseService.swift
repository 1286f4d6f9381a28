internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ServiceLifecycle

/// While this agent leads: knows the phases of the types, for the metrics and the other services, and advances the types that are to
/// leave theirs by themselves.
///
/// A flip is seen by looking, once a second: also one whose notification was lost with a session.
struct PhaseService: Service {
    static let interval: Duration = .seconds(1)

    let phases: Phases
    let metrics: Metrics
    let logger: Logger

    init(postgres: PostgresSettings, metrics: Metrics, logger: Logger) {
        phases = Phases(settings: postgres, as: "auto_advance")
        self.metrics = metrics
        self.logger = logger
    }

    func run() async throws {
        var machine = AutoAdvance()
        let started = ContinuousClock.now
        var failure: String?
        while !Task.isShuttingDownGracefully, !Task.isCancelled {
            if metrics.role == .leading {
                do {
                    try await look(&machine, now: .now - started)
                    failure = nil
                } catch {
                    // What is not known is not shown.
                    metrics.update { $0.phases = [:] }
                    if failure != error.description {
                        logger.warning("phases not read", metadata: ["error": "\(error)"])
                    }
                    failure = error.description
                }
            } else {
                await phases.close()
                metrics.update {
                    $0.phases = [:]
                    $0.unmetConditions = [:]
                }
            }
            try? await cancelWhenGracefulShutdown { try await Task.sleep(for: Self.interval) }
        }
        await phases.close()
    }

    private func look(_ machine: inout AutoAdvance, now: Duration) async throws(PostgresError) {
        let look = try await phases.look()
        metrics.update {
            $0.phases = look.phases
            $0.unmetConditions = $0.unmetConditions.filter { type, _ in
                look.standings.contains { $0.entityType == type && $0.isDue }
            }
        }
        for standing in machine.looked(look.standings, now: now) {
            let name = standing.entityType
            let unmet = try await phases.conditions(name).filter { !$0.ok }
            metrics.update { $0.unmetConditions[name] = unmet.count }
            do throws(PostgresError) {
                if unmet.isEmpty {
                    try await phases.advance(standing)
                    logger.notice("advanced", metadata: ["entity_type": "\(name)", "from": "\(standing.phase)"])
                } else if machine.refused(standing, unmet.map(\.condition).joined(separator: " ")) {
                    let reasons = unmet.map { "\($0.condition): required \($0.required), actual \($0.actual)" }
                    logger.notice(
                        "not ready for the next phase",
                        metadata: ["entity_type": "\(name)", "phase": "\(standing.phase)", "unmet": "\(reasons)"])
                }
            } catch {
                if error.disposition == .reconnect { throw error }
                if machine.refused(standing, error.description) {
                    logger.warning("not advanced", metadata: ["entity_type": "\(name)", "error": "\(error)"])
                }
            }
        }
    }
}
