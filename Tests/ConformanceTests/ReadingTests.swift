import Pipeline
import ReactionAgent
import ReactionModel
import TestSupport
import Testing

@Suite struct ReadingTests {
    private func key(_ user: Int64, _ entity: Int64, type: Int16 = 1) -> ReactionKey {
        ReactionKey(typeID: type, userID: user, entityID: entity)
    }

    @Test(arguments: Engine.allCases)
    func flagsAreThoseBeforeTheVersionAndTheBatch(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let catalog = Fixture.catalog
        try await fixture.sink.insert(
            Chunk(
                1,
                [
                    .change(10, set: 3), .change(20, set: 4, clear: 1),
                    .change(21, user: -8, entity: .max, set: 1, type: 2),
                ]), catalog: catalog)
        // A long transaction: a lower version in a later batch.
        try await fixture.sink.insert(Chunk(2, [.change(15, user: 9, set: 8)]), catalog: catalog)
        let keys = [key(7, 42), key(9, 42), key(-8, .max, type: 2), key(7, 43)]
        func flags(before batch: Int64, _ version: Int64) async throws -> [ReactionKey: Int32] {
            try await fixture.sink.flags(
                of: keys, before: BatchNumber(rawValue: batch), Version(rawValue: version), catalog: catalog
            ).mapValues(\.flags)
        }
        #expect(try await flags(before: 1, 10) == [:])
        #expect(try await flags(before: 1, 20) == [keys[0]: 3])
        #expect(try await flags(before: 2, 15) == [keys[0]: 6, keys[2]: 1])
        #expect(try await flags(before: 2, 16) == [keys[0]: 6, keys[2]: 1, keys[1]: 8])
    }

    /// Until a backfill is complete only what was captured since it began says anything; then its rows do, too, and nothing older.
    @Test(arguments: Engine.allCases)
    func aBackfillDividesWhatIsKnown(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        var catalog = Fixture.catalog
        try await fixture.sink.insert(Chunk(1, [.change(10, set: 1), .change(11, user: 8, set: 1)]), catalog: catalog)
        // A row of the backfill, of version 20, as the reading of a table leaves it.
        let batch = BackfillBatches(version: Version(rawValue: 20), number: 1).range(0).rawValue
        try await fixture.sink.insert(Chunk(batch, [.change(20, set: 2)]), catalog: catalog)
        try await fixture.sink.insert(Chunk(2, [.change(30, set: 4, clear: 8)]), catalog: catalog)
        func flags(_ completeBatch: Int64?) async throws -> [KnownFlags?] {
            catalog[1]?.eras = [
                BackfillEra(
                    version: Version(rawValue: 20), completeBatch: completeBatch.map(BatchNumber.init(rawValue:)),
                    isRead: true)
            ]
            let keys = [7, 8].map {
                ReactionKey(typeID: 1, userID: $0, entityID: 42, era: Version(rawValue: 20))
            }
            let found = try await fixture.sink.flags(
                of: keys, before: BatchNumber(rawValue: 3), Version(rawValue: 40), catalog: catalog)
            return keys.map { found[$0] }
        }
        for completeBatch in [nil, 3, 4] as [Int64?] {
            let found = try await flags(completeBatch)
            #expect(found == [KnownFlags(flags: 4, unknown: ~12), KnownFlags(unknown: ~0)])
        }
        #expect(try await flags(2) == [KnownFlags(flags: 6), nil])
    }

    @Test(arguments: Engine.allCases)
    func statesOfTwelveThousandKeysAreAskedInPieces(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let events = (1...12_000).map {
            Event.change(Int64($0), user: .min + Int64($0), entity: .min + Int64($0), set: 2)
        }
        try await fixture.sink.insert(Chunk(1, events), catalog: Fixture.catalog)
        let flags = try await fixture.sink.flags(
            of: events.map { key($0.userID, $0.entityID) }, before: BatchNumber(rawValue: 2), .zero,
            catalog: Fixture.catalog)
        #expect(flags.count == 12_000)
        #expect(flags.values.allSatisfy { $0 == KnownFlags(flags: 2) })
    }

    @Test(arguments: Engine.allCases)
    func theOriginalQueryRunsAsWritten(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        try await fixture.sink.insert(
            Chunk(
                1,
                [
                    .change(1, set: 3), .change(2, clear: 1), .change(3, entity: 43, set: 8),
                    .change(4, user: 8, set: 1),
                    .change(5, set: 1, type: 2),
                ]), catalog: Fixture.catalog)
        let rows = try fixture.query(
            """
            SELECT entityId AS imageId, metricType, MAX(createdAt) AS latestAction, SUM(metricValue) AS totalValue
            FROM entityMetricEvents WHERE entityType = 'Image' AND userId = 7 AND entityId IN (42, 43, 44)
              AND metricType IN ('ReactionLike','ReactionHeart','ReactionLaugh','ReactionCry')
            GROUP BY entityId, metricType HAVING totalValue > 0
            """)
        let time: (String) -> String = { engine != .gateway ? $0 : $0 + ".123456" }
        #expect(
            Set(rows) == [
                ["42", "ReactionHeart", time("2026-01-01 00:00:01"), "1"],
                ["43", "ReactionCry", time("2026-01-01 00:00:03"), "1"],
            ])
    }

    /// What `createdAt` cannot hold becomes the nearest time that it can: PostgreSQL's infinity is the largest Int64.
    @Test(arguments: Engine.allCases)
    func timesOutsideTheTypeAreClamped(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        var events = [Event.change(1, set: 1), .change(2, user: 8, set: 1), .change(3, user: 9, set: 1)]
        events[0].createdAt = .min
        events[1].createdAt = .max
        events[2].createdAt = -1
        try await fixture.sink.insert(Chunk(1, events), catalog: Fixture.catalog)
        let times = try fixture.query("SELECT createdAt FROM entityMetricEvents ORDER BY version").map { $0[0] }
        #expect(
            times
                == (engine != .gateway
                    ? ["0000-00-00 00:00:00", "2105-12-31 23:59:59", "0000-00-00 00:00:00"]
                    : ["1900-01-01 00:00:00.000000", "2299-12-31 23:59:59.999999", "1969-12-31 23:59:59.999999"]))
    }

    @Test(arguments: Engine.allCases)
    func aTruncatedTypeIsGoneUpToTheVersionOnce(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let catalog = Fixture.catalog
        try await fixture.sink.insert(
            Chunk(
                1,
                [
                    .change(1, set: 3), .change(2, user: 8, set: 1), .change(3, user: 8, clear: 1),
                    .change(4, set: 1, type: 2),
                ]
            ), catalog: catalog)
        let truncation = Chunk(2, [.truncation(10)])
        #expect(try await !fixture.sink.contains(truncation, catalog: catalog))
        try await fixture.sink.insert(truncation, catalog: catalog)
        try await fixture.sink.insert(truncation, catalog: catalog)
        #expect(try await fixture.sink.contains(truncation, catalog: catalog))
        // One event of two kinds, on one of two users of one of two types.
        #expect(try fixture.counts == [4 + 1, 3 + 2, 5 + 2])
        #expect(
            try fixture.query("SELECT userId, setMask, clearMask FROM reactionsByEntity WHERE batch = 2")
                == [["7", "0", "3"]])
        try fixture.expectDeltasAgree()

        try await fixture.sink.insert(Chunk(3, [.change(11, set: 4)]), catalog: catalog)
        let flags = try await fixture.sink.flags(
            of: [key(7, 42), key(8, 42), key(7, 42, type: 2)], before: BatchNumber(rawValue: 9), .zero, catalog: catalog
        )
        #expect(flags == [key(7, 42): KnownFlags(flags: 4), key(7, 42, type: 2): KnownFlags(flags: 1)])
    }

    @Test(arguments: Engine.allCases, ["reactionsByEntity", "reactionDeltas", "entityMetricEvents"])
    func aTruncationWhoseAnswerIsLostLeavesOneCopy(_ engine: Engine, _ table: String) async throws {
        let fixture = try await Fixture(engine)
        let catalog = Fixture.catalog
        try await fixture.sink.insert(.hundred(), catalog: catalog)
        let proxy = try fixture.proxy
        let sink = try fixture.sink(through: proxy)
        proxy.breakNext(containing: "INSERT INTO \(table)", .loseAnswer)
        let truncation = Chunk(2, [.truncation(1 << 40)])
        await #expect(throws: SinkError.self) { try await sink.insert(truncation, catalog: catalog) }
        #expect(proxy.faults == 1)
        try await sink.insert(truncation, catalog: catalog)
        #expect(try fixture.counts == [160, 50, 220])
        try fixture.expectDeltasAgree()
    }

    @Test(arguments: Engine.allCases)
    func deltasAgreeWithTheEventsOfRandomWrites(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        var generator = SystemRandomNumberGenerator()
        var state: [ReactionKey: Int32] = [:]
        var version: Int64 = 0
        for batch in Int64(1)...8 {
            let events = (0..<300).map { _ in
                version += 1
                let key = key(.random(in: 0..<10, using: &generator), .random(in: 0..<5, using: &generator))
                let before = state[key, default: 0]
                let after = Int32.random(in: 0..<16, using: &generator)
                state[key] = after
                return Event.change(
                    version, user: key.userID, entity: key.entityID, set: after & ~before, clear: before & ~after)
            }
            for half in [events[..<150], events[150...]] {
                try await fixture.sink.insert(
                    Chunk(batch, part: Int32(half.startIndex), Array(half)), catalog: Fixture.catalog)
            }
        }
        try fixture.expectDeltasAgree()
        let flags = try await fixture.sink.flags(
            of: Array(state.keys), before: BatchNumber(rawValue: 99), .zero, catalog: Fixture.catalog)
        #expect(flags == state.filter { $0.value != 0 }.mapValues { KnownFlags(flags: $0) })
    }
}
