internal import Glibc
public import Logging
public import Pipeline
public import PostgresSource
internal import ReactionModel
public import ServiceLifecycle

/// Runs the mirror: one term after the other, each in a session of its own.
///
/// Decisions are in `Mirror`; here its actions are carried out, each as a task that ends by telling the machine what came of it.
public struct MirrorService: Service {
    public struct Settings: Sendable {
        public var mirror: Mirror.Settings
        /// After it a request to ClickHouse, also a former leader's, is no longer under way.
        public var sinkTimeout: Duration
        /// Whether the extension's version is checked; off where tests stand in for the extension.
        public var checksExtension = true

        public init(mirror: Mirror.Settings, sinkTimeout: Duration) {
            self.mirror = mirror
            self.sinkTimeout = sinkTimeout
        }
    }

    static let heartbeat: Duration = .seconds(1)
    static let followInterval: Duration = .seconds(1)

    private let settings: Settings
    private let source: PostgresSource
    private let sink: any Sink
    private let makeCache: @Sendable (PostgresSource.Term) -> any Cache
    private let entities: EntityServices?
    private let metrics: Metrics
    private let logger: Logger

    /// - Parameter entities: nil: no entity is kept in Redis.
    public init(
        settings: Settings, source: PostgresSource, sink: any Sink, metrics: Metrics, logger: Logger,
        makeCache: @escaping @Sendable (PostgresSource.Term) -> any Cache, entities: EntityServices? = nil
    ) {
        self.settings = settings
        self.source = source
        self.sink = sink
        self.metrics = metrics
        self.logger = logger
        self.makeCache = makeCache
        self.entities = entities
    }

    public func run() async throws {
        try await withGracefulShutdownHandler {
            try await serveTerms()
        } onGracefulShutdown: {
            source.interrupt()
        }
        await source.close()
    }

    private func serveTerms() async throws {
        var backoff = Backoff(limit: settings.mirror.longestBackoff)
        while !Task.isShuttingDownGracefully, !Task.isCancelled {
            do {
                try await serveTerm { backoff.succeeded() }
            } catch is CancellationError {
                break
            } catch let error as IncompatibleExtension {
                throw error
            } catch {
                let slowly = (error as? PostgresError)?.disposition == .stop || error is OutboxDamage
                metrics.update {
                    $0.role = .connecting
                    $0.postgresFailures += 1
                }
                logger.error("term ended", metadata: ["error": "\(error)"])
                await source.close()
                await pause(backoff.failed(slowly: slowly))
            }
        }
    }

    /// Ends by a failure of PostgreSQL, by shutting down, or by damage.
    private func serveTerm(began: () -> Void) async throws {
        try await source.open()
        if settings.checksExtension { try IncompatibleExtension.check(try await source.extensionVersion()) }
        guard try await lead() else { return }
        let term = try await source.beginTerm()
        began()
        logger.notice(
            "leading", metadata: ["generation": "\(term.generation)", "unfinished": "\(term.unfinished.count)"])
        metrics.update { $0.role = .leading }
        let reader = ChunkReader(reader: await source.makeReader())
        for batch in term.unfinished { await reader.announce(batch) }
        let deliverer = Deliverer(
            source: source, sink: sink, reader: reader, metrics: metrics, logger: logger,
            inherited: term.unfinished.last?.number, requestTimeout: settings.sinkTimeout)
        let (counting, rebuilder) =
            try await entities?.begin(
                term, deliverer: deliverer, sink: sink, longestBackoff: settings.mirror.longestBackoff,
                metrics: metrics,
                logger: logger) ?? (nil, nil)
        // What it still does after its term is refused by the watermarks, as a former leader's work is.
        let rebuilding = Task { await rebuilder?.run() }
        defer { rebuilding.cancel() }
        let effects = Effects(
            source: source, sink: sink, cache: makeCache(term), reader: reader, deliverer: deliverer,
            counting: counting,
            metrics: metrics, logger: logger, started: .now)
        try await drive(Mirror(settings: settings.mirror, unfinished: term.unfinished, now: .zero), effects)
        logger.notice("term over")
    }

    /// Waits for the leader's lock; false when shutting down.
    private func lead() async throws -> Bool {
        while !Task.isShuttingDownGracefully {
            if try await source.becomeLeader() { return true }
            if metrics.role != .following { logger.notice("following: another agent leads") }
            metrics.update { $0.role = .following }
            await pause(Self.followInterval)
        }
        return false
    }

    private func drive(_ mirror: Mirror, _ effects: Effects) async throws {
        var mirror = mirror
        let source = source
        try await withThrowingTaskGroup(of: Outcome.self) { group in
            defer {
                group.cancelAll()
                source.interrupt()
            }
            group.addTask {
                try await gracefulShutdown()
                return { $0.shutdownRequested(now: $1) }
            }
            group.addTask {
                try await effects.deliverer.watch()
                return { _, _ in [] }
            }
            var actions = mirror.timePassed(now: .zero)
            while true {
                for action in actions {
                    if case .stop = action { return }
                    group.addTask { try await effects.perform(action) }
                }
                guard let outcome = try await group.next() else { return }
                actions = outcome(&mirror, effects.now)
                effects.report(mirror)
            }
        }
    }

    private func pause(_ duration: Duration) async {
        try? await cancelWhenGracefulShutdown { try await Task.sleep(for: duration) }
    }
}

/// Tells the machine what came of an action, and when.
typealias Outcome = @Sendable (inout Mirror, Duration) -> [Mirror.Action]

/// Carries out the machine's actions. Only PostgreSQL's failures are thrown: they end the term.
struct Effects: Sendable {
    let source: PostgresSource
    let sink: any Sink
    let cache: any Cache
    let reader: ChunkReader
    let deliverer: Deliverer
    let counting: Counting?
    let metrics: Metrics
    let logger: Logger
    let started: ContinuousClock.Instant

    var now: Duration { .now - started }

    func perform(_ action: Mirror.Action) async throws -> Outcome {
        try Task.checkCancellation()
        switch action {
        case .look: return try await look()
        case .setAsleep(true):
            let horizon = try await source.fallAsleep()
            return { $0.fellAsleep(horizon: horizon, now: $1) }
        case .setAsleep(false):
            try await source.stayAwake()
            return { $0.wokenUp(now: $1) }
        case .awaitBell:
            try await source.awaitBell(heartbeat: MirrorService.heartbeat)
            return { $0.bellHeard(now: $1) }
        case .apply(let batch): return try await apply(batch)
        case .remove(let batch): return try await remove(batch)
        case .count(let batch): return try await count(batch)
        case .raiseEpochs(let types, let offer, let through):
            guard try await source.raiseEpochs(types) else {
                logger.warning("epochs not raised: a type's row is locked", metadata: ["types": "\(types.sorted())"])
                return { $0.raiseFailed(insteadOf: offer, now: $1) }
            }
            metrics.update { $0.raisedEpochs += 1 }
            logger.warning("user maps and entities made absent", metadata: ["types": "\(types.sorted())"])
            return { $0.epochsRaised(insteadOf: offer, through: through, now: $1) }
        case .send(let batch): return try await send(batch)
        case .finish(let batch, let lag): return try await finish(batch, lag)
        case .wait(let until):
            try await Task.sleep(until: started + until)
            return { $0.timePassed(now: $1) }
        case .stop: return { _, _ in [] }
        }
    }

    func report(_ mirror: Mirror) {
        metrics.update {
            $0.behind = mirror.behind
            $0.isRedisFailing = mirror.isRedisFailing
            $0.isSinkFailing = mirror.isSinkFailing
        }
    }

    private func look() async throws -> Outcome {
        try await source.maintain(unverified: await deliverer.unverified)
        let look = try await source.look()
        if let batch = look.batch {
            metrics.update { $0.formedBatches += 1 }
            await reader.announce(batch)
        }
        return { $0.looked(look.batch, hasMore: look.hasMore, oldestRunning: look.oldestRunning, now: $1) }
    }

    private func apply(_ batch: Batch) async throws -> Outcome {
        do {
            var after = Version.zero
            var count: Int64 = 0
            while count < batch.events {
                try Task.checkCancellation()
                let events = try await reader.events(of: batch, after: after, count: count)
                guard let last = events.last else { throw OutboxDamage(batch: batch.number) }
                try await cache.apply(events, catalog: batch.catalog)
                metrics.update { $0.appliedEvents += UInt64(events.count) }
                after = last.version
                count += Int64(events.count)
            }
            return { $0.offered(.changes, of: batch.number, now: $1) }
        } catch let error as CacheError {
            metrics.update { $0.redisFailures += 1 }
            await reader.release(batch.number)
            logger.warning(
                "apply failed", metadata: ["batch": "\(batch.number.rawValue)", "error": "\(error.message)"])
            return { $0.offerFailed(.changes, now: $1) }
        }
    }

    private func send(_ batch: Batch) async throws -> Outcome {
        do {
            let lag = try await deliverer.deliver(batch)
            metrics.update { $0.lag.add(lag) }
            return { $0.batchConfirmed(batch.number, lag: lag, now: $1) }
        } catch let error as SinkError {
            metrics.update { $0.sinkFailures += 1 }
            await reader.release(batch.number)
            logger.warning(
                "send failed",
                metadata: [
                    "batch": "\(batch.number.rawValue)", "code": "\(error.code)", "status": "\(error.status)",
                    "error": "\(error.message)",
                ])
            return { $0.sendFailed(slowly: error.disposition == .stop, now: $1) }
        }
    }

    private func remove(_ batch: Batch) async throws -> Outcome {
        do {
            let removals = Removals(source: source, sink: sink, cache: cache)
            let count = try await removals.offer(batch)
            metrics.update { $0.offeredRemovals += UInt64(count) }
            return { $0.offered(.removals, of: batch.number, now: $1) }
        } catch let error as CacheError {
            metrics.update { $0.redisFailures += 1 }
            tellRemoval(batch, error.message)
            return { $0.offerFailed(.removals, now: $1) }
        } catch let error as SinkError {
            metrics.update { $0.sinkFailures += 1 }
            tellRemoval(batch, error.message)
            return { $0.offerHindered(.removals, now: $1) }
        }
    }

    private func count(_ batch: Batch) async throws -> Outcome {
        do {
            try await counting?.count(batch)
            return { $0.offered(.counts, of: batch.number, now: $1) }
        } catch let error as CacheError {
            metrics.update { $0.redisFailures += 1 }
            tellCounting(batch, error.message)
            let isDisplaced = !error.displacedTypes.isEmpty
            return { isDisplaced ? $0.offerDisplaced(.counts, now: $1) : $0.offerFailed(.counts, now: $1) }
        } catch let error as SinkError {
            metrics.update { $0.sinkFailures += 1 }
            tellCounting(batch, error.message)
            return { $0.offerHindered(.counts, now: $1) }
        }
    }

    private func tellCounting(_ batch: Batch, _ error: String) {
        logger.warning("counting failed", metadata: ["batch": "\(batch.number.rawValue)", "error": "\(error)"])
    }

    private func tellRemoval(_ batch: Batch, _ error: String) {
        logger.warning("removal failed", metadata: ["batch": "\(batch.number.rawValue)", "error": "\(error)"])
    }

    private func finish(_ batch: Batch, _ lag: LagHistogram) async throws -> Outcome {
        try await deliverer.settle(batch.number)
        try await source.finish(batch.number, lag: lag)
        await reader.forget(batch.number)
        metrics.update {
            $0.finishedBatches += 1
            $0.finishedEvents += UInt64(batch.events)
            $0.lastFinished = Double(time(nil))
        }
        return { $0.batchFinished(batch.number, now: $1) }
    }
}
