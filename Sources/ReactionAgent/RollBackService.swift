internal import Logging
internal import Pipeline
internal import PostgresSource
internal import ReactionModel
internal import ServiceLifecycle

/// While this agent leads: carries out the rollbacks from phase `stop_writes` that `CALL reactions.rollback` asks for.
///
/// Decisions are in `RollBack`. Everything that is done is in PostgreSQL, so whoever leads next goes on with it.
struct RollBackService: Service {
    /// Between two looks for requests.
    static let interval: Duration = .seconds(1)

    let postgres: PostgresSettings
    let clickHouse: ClickHouseSettings
    let longestBackoff: Duration
    let metrics: Metrics
    let logger: Logger

    func run() async throws {
        let source = WriteBackSource(settings: postgres)
        try? await cancelWhenGracefulShutdown {
            while true {
                try Task.checkCancellation()
                if metrics.role == .leading {
                    await serve(source)
                } else {
                    await source.close()
                }
                try await Task.sleep(for: Self.interval)
            }
        }
        await source.close()
    }

    private func serve(_ source: WriteBackSource) async {
        do {
            for (request, entityType) in try await source.requests() {
                guard let job = try await source.takeUp(request) else { continue }
                logger.notice("rolling back", metadata: ["entity_type": "\(entityType)", "term": "\(job.term)"])
                try await rollBack(job, source)
            }
        } catch {
            await source.close()
            if !(error is CancellationError) {
                logger.warning("rollback: session ended", metadata: ["error": "\(error)"])
            }
        }
    }

    private func rollBack(_ job: WriteBackSource.Job, _ source: WriteBackSource) async throws {
        let store = BackfillStore(clickHouse.patient())
        var machine = RollBack(longestBackoff: longestBackoff)
        var action = RollBack.Action.begin
        var usersDone: Int64?
        var started: Int64 = 0
        var told: String?
        while action != .stop {
            try Task.checkCancellation()
            do {
                switch action {
                case .begin:
                    started = try await store.startedAt()
                    guard
                        let round = try await source.begin(job, clickHouseStarted: started + Deliverer.clockSkew)
                    else {
                        action = machine.ended()
                        continue
                    }
                    usersDone = round.usersDone
                    action = machine.began(done: round.done, chosen: round.chosen, isFresh: round.isFresh)
                case .writeBatches(let after, let through):
                    try await WriteBack(
                        type: job.type, stopVersion: job.stopVersion, after: after, through: through,
                        usersDone: usersDone
                    ).run(
                        store, planned: { try await source.planned($0, job) },
                        write: { try await source.write($0, through: $1, job) })
                    try await source.batchesWritten(job)
                    action = machine.batchesWritten()
                case .writeEvents:
                    action = machine.eventsWritten(try await source.writeEvents(job))
                case .flip:
                    guard abs(try await store.startedAt() - started) <= 1 else {
                        await source.giveUp()
                        action = machine.failed("ClickHouse has restarted", slowly: false)
                        continue
                    }
                    try await source.flip(job)
                    logger.notice("rolled back", metadata: ["entity_type": "\(job.type.name)"])
                    action = machine.flipped()
                case .pause(let duration):
                    await source.giveUp()
                    try await Task.sleep(for: duration)
                    action = .begin
                case .stop: break
                }
            } catch {
                action = try await failed(error, job, source, &machine)
            }
            if action != .stop, machine.obstacle != told {
                told = machine.obstacle
                try await tell(told, job, source)
            }
        }
        await source.giveUp()
    }

    /// What a server says for the moment is tried again; what PostgreSQL refuses for good ends the request.
    private func failed(
        _ error: any Error, _ job: WriteBackSource.Job, _ source: WriteBackSource, _ machine: inout RollBack
    ) async throws -> RollBack.Action {
        await source.giveUp()
        switch error {
        case let error as PostgresError where error.disposition == .stop:
            logger.error("rollback failed", metadata: ["entity_type": "\(job.type.name)", "error": "\(error)"])
            try await source.fail(error.description, job)
            return machine.ended()
        case let error as PostgresError:
            return machine.failed(error.description, slowly: false)
        case let error as SinkError:
            return machine.failed(error.message, slowly: error.disposition != .retry)
        default: throw error
        }
    }

    private func tell(_ problem: String?, _ job: WriteBackSource.Job, _ source: WriteBackSource) async throws {
        if let problem {
            logger.warning(
                "rollback is kept up", metadata: ["entity_type": "\(job.type.name)", "error": "\(problem)"])
        }
        try await source.note(problem, job)
    }
}
