import ClickHouseStore
import Pipeline
import ReactionAgent
import ReactionModel
import TestSupport
import Testing

@Suite struct DeliveryTests {
    @Test(arguments: Engine.allCases)
    func aChunkIsInEveryTableOnce(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let chunk = Chunk.hundred()
        #expect(try await !fixture.sink.contains(chunk, catalog: Fixture.catalog))
        try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
        #expect(try await fixture.sink.contains(chunk, catalog: Fixture.catalog))
        #expect(try fixture.counts == Chunk.hundredCounts)
        try fixture.expectDeltasAgree()
    }

    @Test(arguments: Engine.allCases)
    func theRowsOfManyBatchesAreToldAtOnce(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        var inserted: [BatchNumber: MirroredRows] = [:]
        for batch in [1, 2, 4] as [Int64] {
            var rows = try #require(try await fixture.sink.insert(.hundred(batch: batch), catalog: Fixture.catalog))
            let more = Chunk.hundred(batch: batch, part: 100)
            rows.add(try #require(try await fixture.sink.insert(more, catalog: Fixture.catalog)))
            inserted[BatchNumber(rawValue: batch)] = rows
            #expect(rows.numbers.count == 6)
            #expect(MirroredRows(numbers: rows.numbers) == rows)
        }
        #expect(try await fixture.sink.rows(of: BatchNumber(rawValue: 0)...BatchNumber(rawValue: 4)) == inserted)
        inserted[BatchNumber(rawValue: 1)] = nil
        #expect(try await fixture.sink.rows(of: BatchNumber(rawValue: 2)...BatchNumber(rawValue: 9)) == inserted)
    }

    @Test(arguments: Engine.allCases)
    func aChunkSentAgainLeavesOneCopy(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        try await fixture.sink.insert(.hundred(), catalog: Fixture.catalog)
        try await fixture.sink.insert(.hundred(), catalog: Fixture.catalog)
        try await ClickHouseSink(fixture.settings).insert(.hundred(), catalog: Fixture.catalog)
        #expect(try fixture.counts == Chunk.hundredCounts)
    }

    @Test(arguments: Engine.allCases)
    func chunksOfOneBatchKeepTheirOwnDeltas(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        try await fixture.sink.insert(.hundred(part: 0), catalog: Fixture.catalog)
        try await fixture.sink.insert(.hundred(part: 100), catalog: Fixture.catalog)
        for table in MirrorTable.allCases {
            try fixture.endpoint.query("OPTIMIZE TABLE \(table) FINAL", database: fixture.database)
        }
        #expect(try fixture.counts == Chunk.hundredCounts.map { $0 * 2 })
        try fixture.expectDeltasAgree()
    }

    @Test(arguments: Engine.allCases, MirrorTable.allCases)
    func anAnswerThatIsLostLeavesOneCopyAfterTheNextAttempt(_ engine: Engine, _ table: MirrorTable) async throws {
        let fixture = try await Fixture(engine)
        let proxy = try fixture.proxy
        let sink = try fixture.sink(through: proxy)
        proxy.breakNext(containing: "query=INSERT%20INTO%20\(table)", .loseAnswer)
        let error = await #expect(throws: SinkError.self) {
            try await sink.insert(.hundred(), catalog: Fixture.catalog)
        }
        #expect(error?.disposition == .retry)
        #expect(proxy.faults == 1)
        #expect(try fixture.count(table.rawValue) > 0)
        try await sink.insert(.hundred(), catalog: Fixture.catalog)
        #expect(try fixture.counts == Chunk.hundredCounts)
    }

    /// Compressed rows of a few kilobytes. A request of which nothing but the head was sent, libcurl repeats by itself.
    @Test(arguments: Engine.allCases, [100, 700, 1_500])
    func aRequestThatIsCutOffLeavesAllOrNothing(_ engine: Engine, _ bytes: Int) async throws {
        let fixture = try await Fixture(engine)
        let proxy = try fixture.proxy
        let sink = try fixture.sink(through: proxy)
        proxy.breakNext(containing: "query=INSERT%20INTO%20entityMetricEvents", .cutRequest(afterBytes: bytes))
        do {
            try await sink.insert(.hundred(), catalog: Fixture.catalog)
            #expect(bytes == 100)
            #expect(try fixture.counts == Chunk.hundredCounts)
        } catch let error as SinkError {
            #expect(error.disposition == .retry)
            #expect(try fixture.count("entityMetricEvents") == 0)
        }
        #expect(proxy.faults == 1)
        // Another process, which knows nothing of the attempt.
        try await fixture.sink.insert(.hundred(), catalog: Fixture.catalog)
        #expect(try fixture.counts == Chunk.hundredCounts)
    }

    @Test(arguments: Engine.allCases)
    func twoSinksWithTheSameChunkLeaveOneCopy(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        for batch in Int64(1)...10 {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<2 {
                    group.addTask {
                        let sink = ClickHouseSink(fixture.settings)
                        try await eventually {
                            do {
                                try await sink.insert(.hundred(batch: batch), catalog: Fixture.catalog)
                                return true
                            } catch let error as SinkError where error.disposition == .retry {
                                return false
                            }
                        }
                    }
                }
                try await group.waitForAll()
            }
            try await fixture.sink.insert(.hundred(batch: batch), catalog: Fixture.catalog)
        }
        #expect(try fixture.counts == Chunk.hundredCounts.map { $0 * 10 })
    }

    @Test(arguments: Engine.allCases)
    func rowsThatAreThereTwiceAreMerged(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let chunk = Chunk.hundred()
        try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
        for table in MirrorTable.allCases {
            try fixture.endpoint.query(
                "INSERT INTO \(table) SELECT * FROM \(table)", database: fixture.database,
                settings: engine == .gateway ? ["deduplicate_insert_select": "disable"] : [:])
        }
        #expect(try await !fixture.sink.contains(chunk, catalog: Fixture.catalog))
        try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
        #expect(try await fixture.sink.contains(chunk, catalog: Fixture.catalog))
        #expect(try fixture.counts == Chunk.hundredCounts)
    }

    /// A request that slips through after the look exists only where there is no deduplication token.
    @Test func onAServer1816ALateAttemptIsFoundAfterItsDeadline() async throws {
        let fixture = try await Fixture(.server)
        let proxy = try fixture.proxy
        let sink = try fixture.sink(through: proxy, requestTimeout: .seconds(1))
        proxy.breakNext(containing: "query=INSERT", .loseAnswer)
        await #expect(throws: SinkError.self) { try await sink.insert(.hundred(batch: 1), catalog: Fixture.catalog) }
        try await eventually { (try? await sink.insert(.hundred(batch: 1), catalog: Fixture.catalog)) != nil }
        try fixture.endpoint.query(
            "INSERT INTO entityMetricEvents SELECT * FROM entityMetricEvents", database: fixture.database)
        var batch: Int64 = 1
        try await eventually {
            batch += 1
            try await sink.insert(.hundred(batch: batch), catalog: Fixture.catalog)
            return try fixture.counts == Chunk.hundredCounts.map { $0 * Int(batch) }
        }
    }

    @Test(arguments: Engine.allCases)
    func aChunkThatTheServerHasLostIsSentAgain(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let chunk = Chunk.hundred()
        try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
        try fixture.endpoint.query(
            "ALTER TABLE reactionDeltas DROP PARTITION 0", database: fixture.database)
        #expect(try await !fixture.sink.contains(chunk, catalog: Fixture.catalog))
        try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
        #expect(try fixture.counts == Chunk.hundredCounts)
    }

    @Test(arguments: Engine.allCases)
    func aHundredThousandEventsAreOnePartPerTable(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let events = (0..<100_000).map { index in
            Event.change(Int64(index) + 1, user: Int64(index % 5_000), entity: Int64(index / 100), set: 15)
        }
        let chunk = Chunk(3, events)
        try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
        #expect(try fixture.counts == [100_000, 4_000, 400_000])
        let parts = try fixture.query(
            "SELECT count() FROM system.parts WHERE database = '\(fixture.database)' AND active GROUP BY table")
        #expect(parts == [["1"], ["1"], ["1"]])
    }

    @Test(arguments: Engine.allCases)
    func eventsThatChangeNothingHaveNoRows(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let chunk = Chunk(1, [.change(1), .change(2, user: 8)])
        try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
        #expect(try await fixture.sink.contains(chunk, catalog: Fixture.catalog))
        #expect(try fixture.counts == [0, 0, 0])
    }
}
