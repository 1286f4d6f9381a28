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

    private let settings: Settings
    private let entityType: String?
    private let logger: Logger

    public init(settings: Settings, entityType: String?, logger: Logger) {
        self.settings = settings
        self.entityType = entityType
        self.logger = logger
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
        let screen = ProgressLines()
        var meters: [String: BackfillMeter] = [:]
        while true {
            let reports = try await source.reports().filter { entityType == nil || $0.entityType == entityType }
            if let entityType, reports.isEmpty {
                throw Problem(description: "entity type \(entityType) has no rows from before its capture")
            }
            let isOver = reports.allSatisfy(\.isOver)
            let shown = reports.filter { !$0.isOver || isOver }
            let lines = shown.map { meters[$0.entityType, default: BackfillMeter()].line($0, now: screen.elapsed) }
            let isMirrored = try await source.isMirrored()
            let hint = !isOver && !isMirrored ? ["nobody mirrors: start reactiond run"] : []
            screen.print(lines + hint, isLast: isOver)
            if isOver { return }
            try await Task.sleep(for: screen.pause)
        }
    }
}
