import Pipeline
import ReactionAgent
import ReactionModel
import TestSupport
import Testing

/// Users and entities that are gone.
@Suite struct RemovalTests {
    private func set(_ fixture: Fixture) throws -> [[String]] {
        try fixture.query(
            """
            SELECT userId, entityId, metricType FROM entityMetricEvents WHERE entityType = 'Image'
            GROUP BY userId, entityId, metricType HAVING argMax(metricValue, version) > 0 ORDER BY userId, entityId, metricType
            """)
    }

    @Test(arguments: Engine.allCases)
    func usersLoseWhatTheyHadAtTheVersionOfTheirEvent(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let catalog = Fixture.catalog
        try await fixture.sink.insert(
            Chunk(
                1,
                [
                    .change(10, set: 3), .change(11, user: -8, set: 1), .change(12, user: -8, entity: 43, set: 2),
                    .change(13, user: 9, set: 1), .change(14, user: -8, set: 1, type: 2),
                    .change(15, user: .min, set: 8),
                    .change(16, user: .max, set: 8), .change(40, user: 7, entity: 44, set: 1),
                ]), catalog: catalog)
        // The user 7 is gone before version 40, which another batch has brought earlier.
        let removal = Chunk(
            2,
            [.gone(30, user: 7), .gone(50, user: -8), .gone(51, user: .min), .gone(52, user: .max), .gone(53, user: 1)])
        #expect(try await !fixture.sink.contains(removal, catalog: catalog))
        for _ in 0..<2 { #expect(try await fixture.sink.insert(removal, catalog: catalog) == nil) }
        #expect(try await fixture.sink.contains(removal, catalog: catalog))
        #expect(try set(fixture) == [["7", "44", "ReactionLike"], ["9", "42", "ReactionLike"]])
        #expect(
            try fixture.query(
                """
                SELECT userId, entityId, setMask, clearMask, version, toUInt32(createdAt) FROM reactionsByEntity
                WHERE batch = 2 ORDER BY userId, entityId
                """)
                == [
                    [String(Int64.min), "42", "0", "8", "51", "1767225651"],
                    ["-8", "42", "0", "1", "50", "1767225650"],
                    ["-8", "43", "0", "2", "50", "1767225650"], ["7", "42", "0", "3", "30", "1767225630"],
                    [String(Int64.max), "42", "0", "8", "52", "1767225652"],
                ])
        #expect(
            try fixture.query("SELECT count() FROM entityMetricEvents WHERE entityType != 'Image' AND metricValue < 0")
                == [["0"]])
        try fixture.expectDeltasAgree()
    }

    @Test(arguments: Engine.allCases)
    func entitiesLoseTheirReactorsWhomPagesTell(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let catalog = Fixture.catalog
        var events = (0..<500).map { Event.change($0 + 1, user: $0 % 250 - 100, entity: 40 + $0 / 250, set: 1) }
        events.append(.change(600, user: 3, entity: 40, clear: 1))
        try await fixture.sink.insert(Chunk(1, events), catalog: catalog)
        let removal = Chunk(2, [.gone(700, entity: 40), .gone(701, entity: 99)])
        for _ in 0..<2 { try await fixture.sink.insert(removal, catalog: catalog) }
        #expect(try await fixture.sink.contains(removal, catalog: catalog))
        #expect(try set(fixture).count == 250)
        try fixture.expectDeltasAgree()
        var users: [Int64] = []
        while true {
            let page = try await fixture.sink.users(
                removedBy: removal.events[0], of: Fixture.image, above: users.last, limit: 100)
            users += page
            if page.count < 100 { break }
        }
        // One had taken the reaction back before.
        #expect(users == (Int64(-100)..<150).filter { $0 != 3 })
        #expect(
            try await fixture.sink.users(removedBy: removal.events[1], of: Fixture.image, above: nil, limit: 9).isEmpty)
    }

    @Test(arguments: Engine.allCases, ["reactionsByEntity", "reactionDeltas", "entityMetricEvents"])
    func aRemovalWhoseAnswerIsLostLeavesOneCopy(_ engine: Engine, _ table: String) async throws {
        let fixture = try await Fixture(engine)
        let catalog = Fixture.catalog
        try await fixture.sink.insert(.hundred(), catalog: catalog)
        let proxy = try fixture.proxy
        let sink = try fixture.sink(through: proxy)
        proxy.breakNext(containing: "INSERT INTO \(table)", .loseAnswer)
        let removal = Chunk(2, (0..<60).map { .gone(1 << 40 + $0, user: $0) })
        await #expect(throws: SinkError.self) { try await sink.insert(removal, catalog: catalog) }
        #expect(proxy.faults == 1)
        try await sink.insert(removal, catalog: catalog)
        #expect(try set(fixture).isEmpty)
        #expect(try fixture.counts == [160, 50, 220])
        try fixture.expectDeltasAgree()
    }

    @Test func aRemovalMayTakeLongerThanOtherRequests() async throws {
        let fixture = try await Fixture(.server)
        try await fixture.sink.insert(.hundred(), catalog: Fixture.catalog)
        let proxy = try fixture.proxy
        let sink = try fixture.sink(through: proxy, requestTimeout: .seconds(2))
        proxy.breakNext(containing: "INSERT INTO reactionsByEntity", .holdAnswer)
        async let removed = sink.insert(Chunk(2, [.gone(1 << 40, user: 3)]), catalog: Fixture.catalog)
        try await eventually { proxy.faults == 1 }
        let answered = ContinuousClock.now
        try await eventually { .now - answered > .seconds(3) }
        proxy.release()
        #expect(try await removed == nil)
        try fixture.expectDeltasAgree()
    }

    /// The most events of one removal, with the longest ids: within ClickHouse's limits on a query's text.
    @Test(arguments: Engine.allCases, [EventScope.user, .entity])
    func theLargestRemovalFitsIntoAStatement(_ engine: Engine, _ scope: EventScope) async throws {
        let fixture = try await Fixture(engine)
        let ids = (0..<1000).map { Int64.min + $0 }
        let base: Int64 = 511 << 44
        let changes = ids.enumerated().map {
            Event.change(
                base + Int64($0.offset), user: scope == .user ? $0.element : 1,
                entity: scope == .entity ? $0.element : 1, set: 15)
        }
        try await fixture.sink.insert(Chunk(1, changes), catalog: Fixture.catalog)
        let removal = Chunk(
            2,
            ids.enumerated().map {
                let version = base + 1000 + Int64($0.offset)
                return scope == .user ? .gone(version, user: $0.element) : .gone(version, entity: $0.element)
            })
        try await fixture.sink.insert(removal, catalog: Fixture.catalog)
        #expect(try set(fixture).isEmpty)
        try fixture.expectDeltasAgree()
    }

    /// A schema that refuses what the server makes by itself is nobody's content: no event is parked for it.
    @Test func aRemovalThatIsRefusedWaitsForTheOperator() async throws {
        let fixture = try await Fixture(.server)
        try await fixture.sink.insert(.hundred(), catalog: Fixture.catalog)
        _ = try await fixture.sink.connect()
        try fixture.endpoint.query("ALTER TABLE reactionsByEntity DROP COLUMN clearMask", database: fixture.database)
        let error = await #expect(throws: SinkError.self) {
            try await fixture.sink.insert(Chunk(2, [.gone(1 << 40, user: 3)]), catalog: Fixture.catalog)
        }
        #expect(error?.disposition == .stop)
    }
}
