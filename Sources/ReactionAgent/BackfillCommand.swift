internal import Glibc
public import Logging
internal import PostgresSource

/// Works beside the agents that run, or instead of them, until the rows of a type, or of every type, are in ClickHouse.
///
/// It asks whoever holds the lock to do the work, is ready to take it over, and shows how far it is.
public struct BackfillCommand: Sendable {
    /// There is nothing to be read, or what was read can no longer be finished.
    public struct Problem: Error, CustomStringConvertible {
        public var description: String
    }

    /// Between two lines on a terminal, where one replaces the other, and elsewhere.
    static let refresh: Duration = .milliseconds(250)
    static let report: Duration = .seconds(5)

    private let settings: Settings
    private let entityType: String?
    private let logger: Logger
    private let isTerminal: Bool

    public init(settings: Settings, entityType: String?, logger: Logger) {
        self.settings = settings
        self.entityType = entityType
        self.logger = logger
        isTerminal = isatty(STDOUT_FILENO) == 1
    }

    public func run() async throws {
        Agent.prepareMemory()
        var asked = settings.backfill
        asked.isAutomatic = false
        let service = BackfillService(
            settings: asked, postgres: settings.postgres, clickHouse: settings.clickHouse, logger: logger)
        let source = BackfillSource(settings: settings.postgres)
        try await source.open()
        try IncompatibleExtension.check(try await source.extensionVersion())
        try await source.beginLost()
        try await source.request(entityType)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await service.run() }
            try await show(source)
            group.cancelAll()
        }
    }

    private func show(_ source: BackfillSource) async throws {
        let started = ContinuousClock.now
        var meters: [String: BackfillMeter] = [:]
        while true {
            let reports = try await source.reports().filter { entityType == nil || $0.entityType == entityType }
            if let entityType, reports.isEmpty {
                throw Problem(description: "entity type \(entityType) has no rows from before its capture")
            }
            let isOver = reports.allSatisfy(\.isOver)
            let shown = reports.filter { !$0.isOver || isOver }
            let lines = shown.map { meters[$0.entityType, default: BackfillMeter()].line($0, now: .now - started) }
            let isMirrored = try await source.isMirrored()
            let hint = !isOver && !isMirrored ? ["nobody mirrors: start reactiond run"] : []
            print(lines + hint, isLast: isOver)
            if isOver { return }
            try await Task.sleep(for: isTerminal ? Self.refresh : pause(started))
        }
    }

    /// Shorter at first: a small table is read in less than a second.
    private func pause(_ started: ContinuousClock.Instant) -> Duration {
        .now - started < Self.report ? .seconds(1) : Self.report
    }

    private func print(_ lines: [String], isLast: Bool) {
        if isTerminal {
            // Back to the first column, and clear to the end of the line.
            Swift.print("\r\u{1B}[K" + lines.joined(separator: " | "), terminator: isLast ? "\n" : "")
        } else {
            for line in lines { Swift.print(line) }
        }
        fflush(nil)
    }
}
