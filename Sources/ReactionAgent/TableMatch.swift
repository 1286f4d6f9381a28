internal import ClickHouseStore
internal import Logging
public import Pipeline
public import PostgresSource

/// How a match works.
public struct MatchSettings: Sendable {
    /// Rows of one slice of users, which is read from the table in one snapshot.
    public var sliceRows: Int64
    /// How long a reaction is looked at again whose events are on their way; then it is only counted.
    public var patience: Duration

    public init(sliceRows: Int64, patience: Duration) {
        self.sliceRows = sliceRows
        self.patience = patience
    }
}

/// What came of a match.
public struct MatchResult: Sendable {
    /// Reactions that were looked at.
    public var compared: Int64 = 0
    /// Rows of the table.
    public var rows: Int64 = 0
    public var counts: [DifferenceClass: Int64] = [:]
    /// Reactions that could not be judged, since their events were on their way each time.
    public var inFlight: Int64 = 0
    /// The first of each class, at most `mostKept`.
    public var differences: [Difference] = []

    /// Of each class.
    public static let mostKept: Int64 = 10_000

    public var faults: Int64 { counts.reduce(0) { $0 + ($1.key.isFault ? $1.value : 0) } }
    public var repairable: Int64 { counts.reduce(0) { $0 + ($1.key.isRepairable ? $1.value : 0) } }

    mutating func add(_ difference: Difference) {
        let count = counts[difference.reason, default: 0] + 1
        counts[difference.reason] = count
        if count <= Self.mostKept { differences.append(difference) }
    }
}

/// Compares a table with ClickHouse, reaction by reaction. docs/internals.md, "Match", says why what it finds is a difference.
///
/// Both sides are walked through in the order of (user, entity), in memory of a fixed size. What seems to differ is looked at a second
/// time, a page at a time.
public struct TableMatch: Sendable {
    /// Reactions that are looked at again together.
    static let page = 1_000
    /// Reactions on their way that are kept for another look; the rest is only counted.
    static let mostMoving = 100_000
    /// Between two looks at what is on its way.
    static let pause: Duration = .milliseconds(500)

    public typealias Progress = @Sendable (MatchResult) async throws -> Void

    let target: MatchTarget
    private let settings: MatchSettings
    private let postgres: PostgresSettings
    private let states: MirrorStates

    public init(
        target: MatchTarget, settings: MatchSettings, postgres: PostgresSettings, clickHouse: ClickHouseSettings
    ) {
        self.target = target
        self.settings = settings
        self.postgres = postgres
        states = MirrorStates(clickHouse, MatchQuery(type: target.type, asOf: target.asOf))
    }

    /// The rows that the table has, about.
    public func expected() async throws -> Int64 {
        try await states.extent().reactions
    }

    /// - Parameter progress: called after each piece; what it throws ends the match.
    public func run(progress: Progress) async throws -> MatchResult {
        let look = Look(match: self, reader: SecondLook(settings: postgres))
        let table = TableStates(settings: postgres)
        var result = MatchResult()
        let known = try await states.extent().users
        var slices = UserSlices(known: known, of: .min ... .max, rows: settings.sliceRows, states)
        // Most of what was on its way will have arrived when all slices are compared.
        var moving: [MatchKey] = []
        while let users = try await slices.nextSlice() {
            try await compare(users, known: known, table, look, &result, &moving, progress)
        }
        try await settle(moving, look, &result)
        try await progress(result)
        return result
    }

    /// Compares what was written since a transaction id, in the table or in the outbox. Rests as long as it reads the table.
    public func runRecent(since: UInt64, progress: Progress) async throws -> MatchResult {
        let look = Look(match: self, reader: SecondLook(settings: postgres))
        let recent = RecentKeys(settings: postgres, of: target.table, target.type, since: since)
        var result = MatchResult()
        var moving: [MatchKey] = []
        while true {
            let began = ContinuousClock.now
            guard let piece = try await recent.piece() else { break }
            let busy = ContinuousClock.now - began
            let keys = Array(Set(piece))
            try await decide(keys, look, &result, &moving)
            result.compared += Int64(keys.count)
            result.rows += Int64(piece.count)
            try await progress(result)
            try await Task.sleep(for: busy)
        }
        try await settle(moving, look, &result)
        return result
    }

    private func compare(
        _ users: ClosedRange<Int64>, known: ClosedRange<Int64>?, _ table: TableStates, _ look: Look,
        _ result: inout MatchResult, _ moving: inout [MatchKey], _ progress: Progress
    ) async throws {
        var merge = StateMerge()
        var pieces = StatePieces(known: known, of: users, states)
        let before = result.compared
        try await table.begin(users, of: target.table, target.type)
        walking: while true {
            let need = merge.compare()
            try await decide(merge.takeCandidates(), look, &result, &moving)
            switch need {
            case .nothing: break walking
            case .mirror: merge.mirrorRead(try await pieces.next())
            case .table:
                let piece = try await table.next()
                merge.tableRead(piece.states)
                result.rows += piece.rows
                result.compared = before + merge.compared
                try await progress(result)
            }
            try Task.checkCancellation()
        }
        result.compared = before + merge.compared
    }

    private func decide(
        _ candidates: [MatchKey], _ look: Look, _ result: inout MatchResult, _ moving: inout [MatchKey]
    ) async throws {
        for start in stride(from: 0, to: candidates.count, by: Self.page) {
            let left = try await look.again(
                candidates[start..<min(start + Self.page, candidates.count)], &result)
            let kept = left.prefix(Self.mostMoving - moving.count)
            moving += kept
            result.inFlight += Int64(left.count - kept.count)
        }
    }

    /// Looks at what is on its way until it has arrived.
    private func settle(_ keys: [MatchKey], _ look: Look, _ result: inout MatchResult) async throws {
        var moving = keys
        let deadline = ContinuousClock.now + settings.patience
        while !moving.isEmpty {
            var left: [MatchKey] = []
            for start in stride(from: 0, to: moving.count, by: Self.page) {
                left += try await look.again(moving[start..<min(start + Self.page, moving.count)], &result)
            }
            moving = left
            guard !left.isEmpty, .now < deadline else { break }
            try await Task.sleep(for: Self.pause)
        }
        result.inFlight += Int64(moving.count)
    }

    /// The second look, which decides.
    private struct Look {
        let match: TableMatch
        let reader: SecondLook

        /// Returns the keys that cannot be judged yet, and adds the differences among the others.
        func again(_ keys: ArraySlice<MatchKey>, _ result: inout MatchResult) async throws -> [MatchKey] {
            guard !keys.isEmpty else { return [] }
            try await reader.begin()
            let states: [MatchKey: MatchQuery.State]
            do {
                states = try await match.states.states(of: keys)
            } catch {
                await reader.close()
                throw error
            }
            let answer = try await reader.end(Array(keys), of: match.target.table, match.target.type)
            for key in keys where !answer.moving.contains(key) {
                guard
                    let difference = Difference(
                        key: key, inTable: answer.flags[key] ?? 0, inClickHouse: states[key],
                        isRefused: answer.refused.contains(key))
                else { continue }
                result.add(difference)
            }
            return keys.filter { answer.moving.contains($0) }
        }
    }
}
