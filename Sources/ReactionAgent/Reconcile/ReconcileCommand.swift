internal import Pipeline
internal import PostgresSource

/// Looks through what is in Redis, shows what is wrong, and repairs it unless it is told not to.
public struct ReconcileCommand: Sendable {
    public struct Problem: Error, CustomStringConvertible {
        public var description: String
    }

    /// How long the command waits for another reconciliation.
    private static let patience: Duration = .seconds(30)

    private let settings: Settings
    private let entityTypes: [String]
    private let isDry: Bool
    private let isDeep: Bool

    /// - Parameters:
    ///   - entityTypes: empty for all.
    ///   - mostRepairs: nil for what the settings say.
    public init(settings: Settings, entityTypes: [String], isDry: Bool, isDeep: Bool, mostRepairs: Int64?) throws {
        var settings = settings
        if let mostRepairs { settings.reconcileService.reconcile.mostRepairs = mostRepairs }
        guard settings.reconcileService.reconcile.mostRepairs >= 0 else {
            throw Problem(description: "--max-repairs is below 0")
        }
        self.settings = settings
        self.entityTypes = entityTypes
        self.isDry = isDry
        self.isDeep = isDeep
    }

    /// Returns the number of faults that are left.
    public func run() async throws -> Int64 {
        Agent.prepareMemory()
        let source = ReconcileSource(settings: settings.postgres)
        try await source.open()
        try IncompatibleExtension.check(try await source.extensionVersion())
        try await takeLock(source)
        let recorded = RecordedReconciliation(
            settings: settings.reconcileService.reconcile, redis: settings.redis, clickHouse: settings.clickHouse,
            source: source)
        let screen = ReconcileScreen()
        do {
            let outcome = try await recorded.run(entityTypes, isDry: isDry, isDeep: isDeep) { await screen.show($0) }
            await screen.end(outcome.tally)
            print(ReconcileTable(tally: outcome.tally, run: outcome.run, isDry: isDry).text)
            return outcome.tally.found - outcome.tally.repaired
        } catch {
            await screen.end(nil)
            throw error
        }
    }

    private func takeLock(_ source: ReconcileSource) async throws {
        let deadline = ContinuousClock.now + Self.patience
        while try await !source.takeLock() {
            guard .now < deadline else {
                let holder = try await source.lockHolder().map { " (backend \($0))" } ?? ""
                throw Problem(
                    description:
                        "another reconciliation is running\(holder): reactions.reconcile_run shows how far it is; try again"
                )
            }
            try await Task.sleep(for: .milliseconds(250))
        }
    }
}

private actor ReconcileScreen {
    private let lines = ProgressLines()
    private var meter = ProgressMeter(unit: "keys")
    private var next: Duration = .zero

    func show(_ tally: ReconcileTally) {
        guard lines.elapsed >= next else { return }
        next = lines.elapsed + lines.pause
        draw(tally, isLast: false)
    }

    /// - Parameter tally: nil if there is none.
    func end(_ tally: ReconcileTally?) {
        guard let tally else { return lines.print([], isLast: true) }
        draw(tally, isLast: true)
    }

    private func draw(_ tally: ReconcileTally, isLast: Bool) {
        var parts = meter.parts(done: tally.scanned, of: tally.expected, rows: tally.scanned, now: lines.elapsed)
        if !isLast, let left = meter.timeLeft { parts.append("\(left) left") }
        if tally.found > 0 { parts.append("\(ProgressMeter.grouped(tally.found)) wrong") }
        lines.print([parts.joined(separator: "  ")], isLast: isLast)
    }
}
