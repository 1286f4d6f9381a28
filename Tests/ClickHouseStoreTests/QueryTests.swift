import ClickHouseStore
import ReactionModel
import Testing

@Suite struct QueryTests {
    @Test(arguments: [33, 159, 202, 209, 210, 216, 241, 242, 243, 252, 999, 123_456])
    func troubleThatPassesIsNotTheRowsFault(_ code: Int) {
        #expect(ServerFailure(status: 500, code: code) == .passing)
    }

    @Test(arguments: [27, 53, 117, 395, 469])
    func refusedRowsAreContentWhateverTheStatus(_ code: Int) {
        #expect(ServerFailure(status: 400, code: code) == .content)
        #expect(ServerFailure(status: 500, code: code) == .content)
    }

    @Test(arguments: [60, 81, 193, 497, 516])
    func whatAnOperatorHasToChangeIsConfiguration(_ code: Int) {
        #expect(ServerFailure(status: 500, code: code) == .configuration)
    }

    @Test func withoutACodeTheStatusDecides() {
        #expect(ServerFailure(status: 403, code: 0) == .configuration)
        #expect(ServerFailure(status: 404, code: 0) == .configuration)
        #expect(ServerFailure(status: 400, code: 0) == .passing)
        #expect(ServerFailure(status: 503, code: 0) == .passing)
    }

    @Test func theCodeIsTheHeadersOrTheBodysFirst() {
        #expect(ServerFailure.code(header: "241", body: "Code: 60, e.displayText()".utf8) == 241)
        #expect(ServerFailure.code(header: nil, body: "Code: 60, e.displayText()".utf8) == 60)
        #expect(ServerFailure.code(header: "?", body: "Code: 60".utf8) == 60)
        #expect(ServerFailure.code(header: nil, body: "<html>Code: 60".utf8) == 0)
        #expect(ServerFailure.code(header: nil, body: "Code: ".utf8) == 0)
        #expect(ServerFailure.code(header: nil, body: "Code: 99999999999999999999999".utf8) > 100_000)
    }

    @Test func presenceIsByCountAndChecksum() {
        let expected = Tally(rows: 2, checksum: 7)
        #expect(Presence(found: expected, expected: expected) == .complete)
        #expect(Presence(found: Tally(), expected: expected) == .absent)
        #expect(Presence(found: Tally(rows: 1, checksum: 7), expected: expected) == .partial)
        #expect(Presence(found: Tally(rows: 2, checksum: 8), expected: expected) == .surplus)
        #expect(Presence(found: Tally(rows: 4, checksum: 14), expected: expected) == .surplus)
        #expect(Presence(found: Tally(), expected: Tally()) == .complete)
    }

    @Test func talliesThatAreNotAllThereAreNoAnswer() {
        let rows = MirrorTable.allCases.map { [$0.rawValue, "1", "-5"] }
        #expect(ChunkQuery.tallies(rows)?[.reactionDeltas] == Tally(rows: 1, checksum: -5))
        #expect(ChunkQuery.tallies(Array(rows.dropLast())) == nil)
        #expect(ChunkQuery.tallies(rows + [["other", "1", "1"]]) == nil)
        #expect(ChunkQuery.tallies(rows.map { [$0[0], "x", "1"] }) == nil)
        #expect(ChunkQuery.tallies(rows.map { [$0[0], "1"] }) == nil)
    }

    @Test func chunksOfABatchAndTheirPiecesHaveNamesOfTheirOwn() {
        func query(_ part: Int32, _ count: Int) -> ChunkQuery {
            ChunkQuery(batch: BatchNumber(rawValue: 5), part: part, eventCount: count)
        }
        #expect(query(0, 10).token(.reactionDeltas) != query(0, 5).token(.reactionDeltas))
        #expect(query(0, 10).token(.reactionDeltas) != query(0, 10).token(.reactionsByEntity))
        #expect(query(.max, .max).parts.lowerBound == Int64(Int32.max))
    }

    @Test func anAnswerThatIsNotRowsIsNone() {
        #expect(StateQuery.rows([]) == [])
        #expect(StateQuery.rows(Array(repeating: 0, count: 19)) == nil)
        let row: [UInt8] = [1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 8, 0, 0, 0]
        let rows = StateQuery.rows(row) ?? []
        #expect(rows.map(\.userID) == [1])
        #expect(rows.map(\.entityID) == [-1])
        #expect(rows.map(\.flag) == [8])
    }

    @Test func oldServersGetNoCodecsAndNewOnesADeduplicationWindow() {
        let old = ServerAbilities(rows: [["insert_deduplicate"], ["type LowCardinality"]])
        let sql = MirrorTable.entityMetricEvents.create(old)
        #expect(!sql.contains("CODEC") && !sql.contains("SETTINGS") && !sql.contains("DateTime64"))
        let new = MirrorTable.entityMetricEvents.create(.newest)
        #expect(
            new.contains("CODEC") && new.contains("non_replicated_deduplication_window") && new.contains("DateTime64(6")
        )
    }

    @Test func theClusterIsThatOfAllThreeTables() {
        let tables = MirrorTable.allCases.map {
            [$0.rawValue, "Distributed(main, mirror, \($0)_local, intHash64(userId))"]
        }
        #expect(MirrorCluster.name(tables) == "main")
        #expect(MirrorCluster.name(Array(tables.dropLast())) == nil)
        #expect(MirrorCluster.name(tables.dropLast() + [["entityMetricEvents", "Distributed(other, a, b)"]]) == nil)
        #expect(MirrorCluster.name(tables.map { [$0[0], "Memory"] }) == nil)
    }

    @Test(arguments: [(1, 1), (2, 2), (3, 2), (5, 3)])
    func aMajorityOfTheReplicasConfirms(_ replicas: Int, _ quorum: Int) {
        #expect(MirrorCluster(name: "main", replicas: replicas)?.quorum == quorum)
    }

    @Test(arguments: ["", "a b", "a'b", "{shard}", "a`b"])
    func namesOfClustersNeedNoQuotes(_ name: String) {
        #expect(MirrorCluster(name: name) == nil)
    }

    @Test func aLookAtAClusterTellsRepetitionsAndPiecesApart() {
        let rows = MirrorTable.allCases.map { [$0.rawValue, "1", "-5", "1", "0"] }
        #expect(ChunkQuery.tallies(rows)?[.reactionDeltas]?.isDoubled == true)
        #expect(ChunkQuery.tallies(rows)?[.reactionDeltas]?.isDivided == false)
        #expect(ChunkQuery.tallies(rows.map { Array($0.dropLast()) }) == nil)
        var found = Tally(rows: 2, checksum: 7)
        found.isDoubled = true
        #expect(Presence(found: found, expected: Tally(rows: 2, checksum: 7)) == .surplus)
        #expect(Presence(found: found, expected: Tally(rows: 3, checksum: 9)) == .partial)
    }

    @Test func serversThatDoNotGetASettingGetNoExperimentalTypes() throws {
        let cluster = try #require(MirrorCluster(name: "main", replicas: 2))
        let old = ServerAbilities(rows: [["allow_experimental_low_cardinality_type"], ["type LowCardinality"]])
        #expect(MirrorTable.reactionDeltas.create(old).contains("LowCardinality"))
        #expect(!MirrorTable.reactionDeltas.createLocal(on: cluster, database: "m", old).contains("LowCardinality"))
        #expect(MirrorTable.reactionDeltas.createLocal(on: cluster, database: "m", .newest).contains("LowCardinality"))
        #expect(!MirrorTable.reactionDeltas.createDistributed(on: cluster, database: "m", .newest).contains("CODEC"))
    }
}
