import ClickHouseStore
import Pipeline
import Testing

@Suite("Match") struct MatchTests {
    private static func table(_ user: Int64, _ entity: Int64, _ flags: Int32 = 1) -> TableState {
        TableState(key: MatchKey(userID: user, entityID: entity), flags: flags)
    }

    private static func mirror(_ user: Int64, _ entity: Int64, _ flags: Int32 = 1, wrong: Int32 = 0) -> MatchQuery.State
    {
        MatchQuery.State(userID: user, entityID: entity, flags: flags, wrongSums: wrong)
    }

    /// Feeds both sides in pieces of the given sizes.
    private static func candidates(
        _ table: [TableState], _ mirror: [MatchQuery.State], pieces: (Int, Int)
    ) -> (keys: [MatchKey], compared: Int64) {
        var merge = StateMerge()
        var (left, right) = (table[...], mirror[...])
        var keys: [MatchKey] = []
        while true {
            let need = merge.compare()
            keys += merge.takeCandidates()
            switch need {
            case .nothing: return (keys, merge.compared)
            case .table:
                merge.tableRead(Array(left.prefix(pieces.0)))
                left = left.dropFirst(pieces.0)
            case .mirror:
                merge.mirrorRead(Array(right.prefix(pieces.1)))
                right = right.dropFirst(pieces.1)
            }
        }
    }

    @Test(
        "candidates are what only one side has, what both have otherwise, and wrong sums, however the pieces are cut",
        arguments: [(1, 1), (1, 7), (3, 2), (100, 1), (100, 100)])
    func merge(pieces: (Int, Int)) {
        let table = [
            Self.table(.min, 1), Self.table(1, -5), Self.table(1, 2), Self.table(1, 3, 3), Self.table(2, 2),
            Self.table(9, 1), Self.table(9, 2),
        ]
        let mirror = [
            Self.mirror(1, -5), Self.mirror(1, 1), Self.mirror(1, 2), Self.mirror(1, 3, 1),
            Self.mirror(2, 2, 1, wrong: 1), Self.mirror(9, 2), Self.mirror(.max, .max),
        ]
        let found = Self.candidates(table, mirror, pieces: pieces)
        let expected: [(Int64, Int64)] = [(.min, 1), (1, 1), (1, 3), (2, 2), (9, 1), (.max, .max)]
        #expect(found.keys == expected.map { MatchKey(userID: $0.0, entityID: $0.1) })
        #expect(found.compared == 9)
        #expect(Self.candidates([], [], pieces: pieces).compared == 0)
        #expect(Self.candidates(table, [], pieces: pieces).keys.count == table.count)
        #expect(Self.candidates([], mirror, pieces: pieces).keys.count == mirror.count)
    }

    struct Case: Sendable {
        var table: Int32
        var mirror: Int32?
        var wrong: Int32 = 0
        var later: Int32 = 0
        var isRefused = false
        var reason: DifferenceClass?
    }

    @Test(
        "a difference is told by which side has more",
        arguments: [
            Case(table: 0, mirror: nil), Case(table: 5, mirror: 5),
            Case(table: 5, mirror: 1, reason: .missing), Case(table: 5, mirror: nil, reason: .missing),
            Case(table: 1, mirror: 5, reason: .phantom), Case(table: 0, mirror: 5, reason: .phantom),
            Case(table: 6, mirror: 5, reason: .different),
            Case(table: 5, mirror: 5, wrong: 4, reason: .sums), Case(table: 0, mirror: 0, wrong: 4, reason: .sums),
            Case(table: 4, mirror: 5, wrong: 1, reason: .phantom),
            // A row above the version as of which the table is compared took the kind away.
            Case(table: 4, mirror: 5, later: 1, reason: .explained),
            Case(table: 4, mirror: 7, later: 1, reason: .phantom),
            Case(table: 6, mirror: 5, later: 1, reason: .different),
            Case(table: 0, mirror: 1, isRefused: true, reason: .policy), Case(table: 1, mirror: 1, isRefused: true),
        ])
    func classes(_ example: Case) {
        let key = MatchKey(userID: 1, entityID: 2)
        let state = example.mirror.map {
            MatchQuery.State(
                userID: 1, entityID: 2, flags: $0, wrongSums: example.wrong, goneLater: example.later & $0)
        }
        let found = Difference(
            key: key, inTable: example.table, inClickHouse: state, isRefused: example.isRefused)
        #expect(found?.reason == example.reason)
    }
}
