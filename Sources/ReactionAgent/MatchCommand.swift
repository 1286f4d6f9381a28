internal import Pipeline
public import PostgresSource
internal import ReactionModel

/// Compares attached tables with ClickHouse, shows how they differ, and repairs it if it is told to.
public struct MatchCommand: Sendable {
    public struct Problem: Error, CustomStringConvertible {
        public var description: String
    }

    public enum Repair: Sendable {
        case no
        /// Only shown.
        case dry
        case yes
    }

    /// Differences that are shown of a type.
    private static let shown = 20

    private let settings: Settings
    private let entityTypes: [String]
    private let scope: MatchSource.Scope
    private let repair: Repair
    private let mostRepairs: Int64

    /// - Parameters:
    ///   - entityTypes: empty for all that have a table.
    ///   - mostRepairs: of a type; if there are more, nothing of it is repaired.
    public init(
        settings: Settings, entityTypes: [String], scope: MatchSource.Scope, repair: Repair, mostRepairs: Int64
    ) throws {
        guard (0...MatchResult.mostKept).contains(mostRepairs) else {
            throw Problem(description: "--max-repairs is not a number from 0 to \(MatchResult.mostKept)")
        }
        self.settings = settings
        self.entityTypes = entityTypes
        self.scope = scope
        self.repair = repair
        self.mostRepairs = mostRepairs
    }

    /// Returns the number of differences that are left.
    public func run() async throws -> Int64 {
        Agent.prepareMemory()
        let source = MatchSource(settings: settings.postgres)
        try await source.open()
        try IncompatibleExtension.check(try await source.extensionVersion())
        guard try await source.takeLock(within: settings.match.patience) else {
            let holder = try await source.lockHolder().map { " (backend \($0))" } ?? ""
            throw Problem(
                description: "another match is running\(holder): reactions.match_run shows how far it is; try again")
        }
        let match = RecordedMatch(
            settings: settings.match, postgres: settings.postgres, clickHouse: settings.clickHouse, source: source
        )
        let wish = try await source.wish()
        let types = try await entityTypes.isEmpty ? source.attached() : entityTypes
        guard !types.isEmpty else { throw Problem(description: "no entity type has a table") }
        var left: Int64 = 0
        var isJudged = true
        for entityType in types {
            var outcome = try await compare(entityType, match)
            report(outcome)
            if repair == .yes { try await mend(&outcome, match) }
            left += outcome.left
            isJudged = isJudged && outcome.result.inFlight == 0
        }
        if let wish, left == 0, isJudged, scope == .full, entityTypes.isEmpty { try await source.fulfil(wish) }
        return left
    }

    private func compare(_ entityType: String, _ match: RecordedMatch) async throws -> RecordedMatch.Outcome {
        let screen = MatchScreen(entityType: entityType)
        do {
            let outcome = try await match.run(entityType, scope) { await screen.show($0, of: $1) }
            await screen.end(outcome.result)
            return outcome
        } catch {
            await screen.end(nil)
            throw error
        }
    }

    private func report(_ outcome: RecordedMatch.Outcome) {
        let result = outcome.result
        let type = outcome.target.type
        let counts = DifferenceClass.allCases.compactMap { reason in
            result.counts[reason].map { "\(ProgressMeter.grouped($0)) \(reason.rawValue)" }
        }
        print(
            "\(type.name)  \(ProgressMeter.grouped(result.compared)) reactions compared, "
                + "\(ProgressMeter.grouped(result.faults)) differ"
                + (counts.isEmpty ? "" : " (\(counts.joined(separator: ", ")))"))
        let isFrozen = outcome.target.asOf != nil
        for difference in result.differences.prefix(Self.shown) {
            print("  " + line(difference, type, isFrozen: isFrozen))
        }
        let more = result.counts.values.reduce(0, +) - Int64(min(result.differences.count, Self.shown))
        if more > 0 {
            print(
                "  and \(ProgressMeter.grouped(more)) more: "
                    + "SELECT * FROM reactions.differences WHERE match_run_id = \(outcome.run)")
        }
        if result.inFlight > 0 {
            print(
                "  \(ProgressMeter.grouped(result.inFlight)) could not be judged: their events were on their way each time"
            )
        }
        if result.counts[.sums] != nil {
            print("  sums are made to agree by SELECT reactions.restart_backfill('\(type.name)')")
        }
    }

    private func line(_ difference: Difference, _ type: EntityType, isFrozen: Bool) -> String {
        func names(_ flags: Int32) -> String {
            let names = type.kinds.filter { $0.flag & flags != 0 }.map(\.name)
            return names.isEmpty ? "none" : names.joined(separator: ", ")
        }
        let found =
            "\(difference.reason.rawValue): user \(difference.key.userID), entity \(difference.key.entityID): "
            + "table \(names(difference.inTable)); ClickHouse \(names(difference.inClickHouse))"
        guard repair == .dry, !isFrozen, difference.reason.isRepairable else { return found }
        return found + "; --repair would write \(names(difference.inTable))"
    }

    private func mend(_ outcome: inout RecordedMatch.Outcome, _ match: RecordedMatch) async throws {
        let count = outcome.result.repairable
        let name = outcome.target.type.name
        guard count == 0 || outcome.target.asOf == nil else {
            throw Problem(
                description:
                    "the table of \(name) takes no more writes: events with its flags would undo what has happened since, "
                    + "so nothing was repaired. CALL reactions.rollback('\(name)') makes it the truth again; repair then"
            )
        }
        guard count <= mostRepairs else {
            throw Problem(
                description:
                    "\(count) reactions of \(name) would be repaired, more than --max-repairs "
                    + "\(mostRepairs): nothing was. Find out why they differ; restart_backfill makes all of ClickHouse agree"
            )
        }
        guard count > 0 else { return }
        try await match.repair(&outcome)
        print("  \(outcome.repaired) repaired: their events reach ClickHouse with the next batches")
    }
}

/// The progress of one type.
private actor MatchScreen {
    private let entityType: String
    private let lines = ProgressLines()
    private var meter = ProgressMeter()
    private var next: Duration = .zero
    private var total: Int64 = 0

    init(entityType: String) {
        self.entityType = entityType
    }

    func show(_ result: MatchResult, of total: Int64) {
        self.total = total
        guard lines.elapsed >= next else { return }
        next = lines.elapsed + lines.pause
        draw(result, isLast: false)
    }

    /// - Parameter result: nil if there is none.
    func end(_ result: MatchResult?) {
        guard let result else { return lines.print([], isLast: true) }
        total = result.rows
        draw(result, isLast: true)
    }

    private func draw(_ result: MatchResult, isLast: Bool) {
        var parts = meter.parts(done: result.rows, of: total, rows: result.rows, now: lines.elapsed)
        if !isLast, let left = meter.timeLeft { parts.append("\(left) left") }
        if result.faults > 0 { parts.append("\(ProgressMeter.grouped(result.faults)) differ") }
        lines.print([entityType + "  " + parts.joined(separator: "  ")], isLast: isLast)
    }
}
