import ClickHouseStore
import Pipeline
import ReactionAgent
import ReactionModel
import TestSupport
import Testing

/// What ClickHouse says of an entity: its counts and who has reacted.
@Suite struct EntityTests {
    private func query(_ batch: Int64) -> EntityQuery {
        EntityQuery(type: Fixture.image, asOf: BatchNumber(rawValue: batch))
    }

    private func reactor(_ version: Int64, _ user: Int64, _ flags: Int32) -> Reactor {
        let event = Event.change(version, user: user)
        return Reactor(
            position: ReactionPosition(version: event.version, createdAt: event.createdAt, userID: user), flags: flags)
    }

    @Test(arguments: Engine.allCases)
    func countsAndReactorsAreAsOfABatch(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let store = EntityStore(fixture.settings)
        let first = Chunk(
            1,
            [
                .change(10, user: 1, set: 3), .change(11, user: -2, set: 1), .change(12, user: 3, set: 8),
                .change(13, user: 4, set: 1), .change(14, user: 4, clear: 1), .change(15, user: .min, set: 2),
                .change(16, user: 1, entity: -43, set: 4), .change(17, user: 9, set: 1, type: 2),
            ])
        // A long transaction brings lower versions of other kinds later.
        let second = Chunk(2, part: 5, [.change(9, user: 3, set: 1), .change(20, user: 1, clear: 2)])
        for chunk in [first, second] { try await fixture.sink.insert(chunk, catalog: Fixture.catalog) }
        // Sent twice, not merged: counted once.
        _ = try fixture.query("INSERT INTO reactionDeltas SELECT * FROM reactionDeltas")
        _ = try fixture.query("INSERT INTO reactionsByEntity SELECT * FROM reactionsByEntity")

        func counts(_ batch: Int64) async throws -> [Int32: Int64] {
            let counts = try await store.counts(of: [42, 77], query(batch))
            #expect(counts[77] == nil)
            return Dictionary(uniqueKeysWithValues: (counts[42] ?? []).map { ($0.flag, $0.count) })
        }
        #expect(try await counts(0) == [:])
        #expect(try await counts(1) == [1: 2, 2: 2, 8: 1])
        #expect(try await counts(2) == [1: 3, 2: 1, 8: 1])

        let one = try await store.reactors(of: [42, -43], query(1))
        #expect(one[42] == [reactor(15, .min, 2), reactor(12, 3, 8), reactor(11, -2, 1), reactor(10, 1, 3)])
        #expect(one[-43] == [reactor(16, 1, 4)])
        let two = try await store.reactors(of: [42], query(2))
        #expect(two[42] == [reactor(20, 1, 1), reactor(15, .min, 2), reactor(12, 3, 9), reactor(11, -2, 1)])

        // Within a batch: up to the end of a chunk.
        let chunks = [
            Chunk(3, part: 0, [.change(30, user: 5, set: 1)]), Chunk(3, part: 7, [.change(31, user: 6, set: 1)]),
        ]
        for chunk in chunks { try await fixture.sink.insert(chunk, catalog: Fixture.catalog) }
        for (part, users) in [(0, [5]), (6, [5]), (7, [6, 5])] as [(Int32, [Int64])] {
            let query = EntityQuery(type: Fixture.image, asOf: BatchNumber(rawValue: 3), part: part)
            let like = try await store.counts(of: [42], query)[42]?.first { $0.flag == 1 }
            #expect(like?.count == 3 + Int64(users.count))
            let newest = try await store.reactors(of: [42], query)[42]?.prefix(users.count).map(\.position.userID)
            #expect(newest == users)
        }
    }

    @Test(arguments: Engine.allCases, [1, 2, 3, 100])
    func pagesTellEverybodyOnce(_ engine: Engine, size: Int) async throws {
        let fixture = try await Fixture(engine)
        let store = EntityStore(fixture.settings)
        var events = (1...20).map { Event.change(Int64($0), user: Int64($0), set: 1) }
        events += (5...10).map { .change(Int64($0) + 30, user: Int64($0), clear: 1) }
        events += (8...14).map { .change(Int64($0) + 50, user: Int64($0), set: 2) }
        try await fixture.sink.insert(Chunk(1, events), catalog: Fixture.catalog)
        // Rows of a backfill share a version, so their times and then their users decide.
        let backfill = BackfillBatches(version: Version(rawValue: 0), number: 1).range(0)
        var rows: [Event] = []
        for user in 101...110 as ClosedRange<Int64> {
            var row = Event.change(0, user: user, set: 4)
            row.createdAt = Event.epoch + (user % 3) * 1_000_000 + user
            rows.append(row)
        }
        try await fixture.sink.insert(
            Chunk(batch: backfill, part: 0, events: rows), catalog: Fixture.catalog)

        let whole = try await store.reactors(of: [42], query(1))[42] ?? []
        #expect(whole.count == 20 - 3 + 10)
        #expect(whole == whole.sorted { $0.position > $1.position })
        #expect(
            whole.suffix(10).map(\.position.userID)
                == [110, 107, 104, 101, 109, 106, 103, 108, 105, 102].sorted {
                    ($0 % 3, $0) > ($1 % 3, $1)
                })
        var told: [Reactor] = []
        var cursor: ReactionPosition?
        repeat {
            let page = try await store.newest(size, of: 42, below: cursor, query(1))
            told += page.reactors
            cursor = page.floor
        } while cursor != nil
        #expect(told == whole)
    }

    @Test(arguments: Engine.allCases)
    func whatUsersWhoAreGoneHadIsToldInPages(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let store = EntityStore(fixture.settings)
        try await fixture.sink.insert(
            Chunk(
                1,
                [
                    .change(10, user: 7, set: 3), .change(11, user: 7, entity: 43, set: 1),
                    .change(12, user: -8, set: 1), .change(13, user: 9, set: 1),
                ]), catalog: Fixture.catalog)
        try await fixture.sink.insert(
            Chunk(2, part: 3, [.gone(30, user: 7), .gone(31, user: -8)]), catalog: Fixture.catalog)
        var told: [EntityQuery.Row] = []
        while true {
            let page = try await store.clears(
                of: [-8, 7], in: 3, above: told.last.map { ($0.reactor.position.userID, $0.entityID) }, limit: 2,
                query(2))
            told += page
            if page.count < 2 { break }
        }
        #expect(
            told == [
                .init(entityID: 42, reactor: reactor(31, -8, 1)), .init(entityID: 42, reactor: reactor(30, 7, 3)),
                .init(entityID: 43, reactor: reactor(30, 7, 1)),
            ])
    }
}
