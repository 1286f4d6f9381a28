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
            // 18.16's replicated tables do not merge whole tables.
            try fixture.execute("OPTIMIZE TABLE {table}\(engine == .cluster ? "" : " FINAL")", table)
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
        // A cluster's settings make the head longer.
        let position = engine == .cluster && bytes > 100 ? bytes + 400 : bytes
        proxy.breakNext(containing: "query=INSERT%20INTO%20entityMetricEvents", .cutRequest(afterBytes: position))
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
        for table in MirrorTable.allCases { try fixture.double(table) }
        #expect(try await !fixture.sink.contains(chunk, catalog: Fixture.catalog))
        // A cluster merges in its own time.
        try await eventually { (try? await fixture.sink.insert(chunk, catalog: Fixture.catalog)) != nil }
        #expect(try await fixture.sink.contains(chunk, catalog: Fixture.catalog))
        #expect(try fixture.counts == Chunk.hundredCounts)
    }

    /// A request that slips through after the look exists only where there is no deduplication token.
    @Test func onAServer1816ALateAttemptIsFoundAfterItsDeadline() async throws {
        let fixture = try await Fixture(.server)
        let proxy = try fixture.proxy
        let sink = try fixture.sink(through: proxy, requestTimeout: .seconds(3))
        proxy.breakNext(containing: "query=INSERT", .loseAnswer)
        await #expect(throws: SinkError.self) { try await sink.insert(.hundred(batch: 1), catalog: Fixture.catalog) }
        try await eventually { (try? await sink.insert(.hundred(batch: 1), catalog: Fixture.catalog)) != nil }
        try fixture.double(.entityMetricEvents)
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
        if engine == .cluster {
            try fixture.delete("batch = 1", from: .reactionDeltas)
            try await eventually { try fixture.count("reactionDeltas") == 0 }
        } else {
            try fixture.execute("ALTER TABLE {table} DROP PARTITION 0", .reactionDeltas)
        }
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
        // On each of a cluster's shards.
        let parts = fixture.endpoint.cluster.map { "cluster('\($0)', system.parts)" } ?? "system.parts"
        let counts = try fixture.query(
            "SELECT count() FROM \(parts) WHERE database = '\(fixture.database)' AND active GROUP BY table")
        #expect(counts == Array(repeating: [engine == .cluster ? "2" : "1"], count: 3))
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
