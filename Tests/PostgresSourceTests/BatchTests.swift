import AgentTestSupport
import Pipeline
import ReactionModel
import TestSupport
import Testing

@testable import PostgresSource

extension PostgresSource {
    /// Every event of the batch, read chunk by chunk.
    func allEvents(of batch: Batch) async throws -> [Event] {
        let reader = makeReader()
        var all: [Event] = []
        while true {
            let events = try await reader.events(of: batch, after: all.last?.version ?? .zero)
            if events.isEmpty { return all }
            all += events
        }
    }

    /// Looks, reads and finishes; the versions of the batch.
    func deliverNext() async throws -> [Int64] {
        guard let batch = try look().batch else { return [] }
        let events = try await allEvents(of: batch)
        var tally = BatchTally()
        tally.add(events)
        #expect(tally.matches(batch))
        #expect(events.map(\.version) == events.map(\.version).sorted())
        try finish(batch.number, lag: LagHistogram())
        return events.map(\.version.rawValue)
    }

    func floor() throws -> Int64 {
        try session.query("SELECT floor FROM reactions._mirror").required(0, 0)
    }

    /// As if the last empty batch were long ago.
    func forgetPace() {
        lastEmptyBatch = nil
    }
}

@Suite struct BatchTests {
    @Test func anEventCommittedAfterTheSnapshotComesWithTheNextBatch() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let slow = try database.connect()
        let quick = try database.connect()
        try slow.execute("BEGIN")
        let late = try slow.writeEvent(user: 1, entity: 1, set: 1)
        let early = try quick.writeEvent(user: 2, entity: 1, set: 1)
        #expect(try await source.deliverNext() == [early])
        #expect(try await source.floor() < late)
        try slow.execute("COMMIT")
        #expect(try await source.deliverNext() == [late])
        #expect(try await source.look().batch?.events ?? 0 == 0)
    }

    @Test func theFloorStaysBelowAVersionWhoseTransactionIsAboveTheSnapshot() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let first = try database.connect()
        let second = try database.connect()
        try first.execute("BEGIN")
        let held = try first.writeEvent(user: 1, entity: 1, set: 1)
        _ = try await source.deliverNext()
        let seen = try second.writeEvent(user: 2, entity: 2, set: 1)
        #expect(try await source.deliverNext() == [seen])
        #expect(try await source.floor() < held)
        try first.execute("COMMIT")
        #expect(try await source.deliverNext() == [held])
    }

    @Test func theFloorReachesTheSequenceWhenAllIsQuiet() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let writer = try database.connect()
        let version = try writer.writeEvent(user: 1, entity: 1, set: 1)
        try await eventually {
            _ = try await source.deliverNext()
            return try await source.floor() >= version
        }
    }

    /// Transactions that have nothing to do with reactions end all the time.
    @Test func aDatabaseWithoutReactionsIsLeftAlone() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let other = try database.connect()
        #expect(try await source.deliverNext() == [])
        for _ in 0..<3 {
            try other.execute("SELECT pg_current_xact_id()")
            await source.forgetPace()
            #expect(try await source.look().batch == nil)
        }
    }

    @Test func anUnfinishedBatchIsTheSameInTheNextTerm() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let writer = try database.connect()
        let open = try database.connect()
        try open.execute("BEGIN")
        try open.writeEvent(user: 9, entity: 9, set: 1)
        for user in 1...5 { try writer.writeEvent(user: Int64(user), entity: 1, set: 1) }
        let batch = try #require(try await source.look().batch)
        let events = try await source.allEvents(of: batch)
        await source.close()

        try open.execute("COMMIT")
        try writer.writeEvent(user: 6, entity: 1, set: 1)
        let (successor, term) = try await database.leader()
        #expect(term.unfinished.map(\.number) == [batch.number])
        let resumed = try #require(term.unfinished.first)
        #expect(try await successor.allEvents(of: resumed) == events)
        #expect(try await successor.deliverNext().count == 2)
    }

    @Test func aScopeOfTheWholeTypeIsAChunkOfItsOwn() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let writer = try database.connect()
        try writer.writeEvent(user: 1, entity: 1, set: 1)
        let all = try writer.writeEvent(user: 0, entity: 0, set: 0, scope: "t")
        try writer.writeEvent(user: 1, entity: 1, set: 2)
        let batch = try #require(try await source.look().batch)
        var sizes: [Int] = []
        var after = Version.zero
        let reader = await source.makeReader()
        while case let events = try await reader.events(of: batch, after: after), let last = events.last {
            sizes.append(events.count)
            if events.contains(where: { $0.scope == .type }) { #expect(events.map(\.version.rawValue) == [all]) }
            after = last.version
        }
        #expect(sizes == [1, 1, 1])
    }

    @Test func consecutiveRemovalsOfOneScopeAndTypeAreAChunk() async throws {
        let database = try await OutboxDatabase.make()
        let (source, _) = try await database.leader()
        let writer = try database.connect()
        try writer.execute(
            """
            SELECT reactions.write_event(u, 1, 1) FROM generate_series(1, 5) u;
            SELECT reactions.write_event(u, 0, 0, scope => 'u') FROM generate_series(1, 1003) u;
            SELECT reactions.write_event(1, 0, 0, scope => 'u', type_id => 2::smallint);
            SELECT reactions.write_event(0, e, 0, scope => 'e') FROM generate_series(1, 2) e;
            SELECT reactions.write_event(1, 1, 1)
            """)
        let batch = try #require(try await source.look().batch)
        #expect(batch.hasRemovals)
        var sizes: [Int] = []
        var after = Version.zero
        let reader = await source.makeReader()
        while case let events = try await reader.events(of: batch, after: after), let last = events.last {
            sizes.append(events.count)
            #expect(Set(events.map { "\($0.scope) \($0.typeID)" }).count == 1)
            after = last.version
        }
        #expect(sizes == [5, 1000, 3, 1, 2, 1])

        var removals: [Event] = []
        while case let page = try await source.removals(of: batch, after: removals.last?.version ?? .zero, limit: 400),
            !page.isEmpty
        {
            removals += page
        }
        #expect(removals.count == 1006)
        #expect(removals.prefix(1003).map(\.userID) == Array(1...1003))
        #expect(removals.suffix(2).map(\.entityID) == [1, 2])

        try writer.writeEvent(user: 1, entity: 1, set: 1)
        let next = try #require(try await source.look().batch)
        #expect(!next.hasRemovals)
        #expect(try await source.removals(of: next, after: .zero, limit: 9).isEmpty)
    }

    @Test func aLargeBacklogIsCutBetweenTransactions() async throws {
        let database = try await OutboxDatabase.make()
        var limits = PostgresSource.BatchLimits()
        limits.batchEvents = 10
        limits.chunkEvents = 3
        let (source, _) = try await database.leader(limits)
        _ = try await source.deliverNext()
        let writer = try database.connect()
        var written: [[Int64]] = []
        for size in [8, 8, 25, 1, 1] {
            try writer.execute("BEGIN")
            written.append(try (0..<size).map { try writer.writeEvent(user: 1, entity: Int64($0), set: 1) })
            try writer.execute("COMMIT")
        }
        var delivered: [[Int64]] = []
        try await eventually {
            let versions = try await source.deliverNext()
            if !versions.isEmpty { delivered.append(versions) }
            return delivered.joined().count == 43
        }
        #expect(Array(delivered.joined()) == Array(written.joined()))
        for transaction in written { #expect(delivered.count { $0.contains(transaction[0]) } == 1) }
        #expect(delivered.allSatisfy { $0.count <= 25 })
        try await eventually {
            _ = try await source.deliverNext()
            return try await source.floor() >= written.last?.last ?? .max
        }
    }

    @Test func lanesReadABatchAtDifferentPlaces() async throws {
        let database = try await OutboxDatabase.make()
        var limits = PostgresSource.BatchLimits()
        limits.chunkEvents = 2
        let (source, _) = try await database.leader(limits)
        let writer = try database.connect()
        try writer.execute("BEGIN")
        let written = try (0..<9).map { try writer.writeEvent(user: 1, entity: Int64($0), set: 1) }
        try writer.execute("COMMIT")
        let batch = try #require(try await source.look().batch)
        let reader = await source.makeReader()
        // Each lane's position; the third one is more than there are sessions.
        var positions = [0, 0, 0]
        for (step, lane) in [0, 0, 1, 0, 2, 1, 0, 2, 1, 0, 2, 1, 2, 1, 2, 0, 1, 2].enumerated() {
            if step == 7 { await reader.release(batch.number) }
            let after = positions[lane] == 0 ? Version.zero : Version(rawValue: written[positions[lane] - 1])
            let events = try await reader.events(of: batch, after: after)
            #expect(events.map(\.version.rawValue) == Array(written.dropFirst(positions[lane]).prefix(2)))
            positions[lane] += events.count
        }
        #expect(positions == [9, 9, 9])
    }

    @Test(arguments: [100_000, 3] as [Int64])
    func everyCommittedEventIsInExactlyOneBatch(batchEvents: Int64) async throws {
        let database = try await OutboxDatabase.make()
        var limits = PostgresSource.BatchLimits()
        limits.batchEvents = batchEvents
        let (source, _) = try await database.leader(limits)
        let writers = Task {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for writer in 0..<8 {
                    group.addTask { try await write(to: database, as: Int64(writer)) }
                }
                try await group.waitForAll()
            }
        }
        var delivered: Set<Int64> = []
        var floors: [(floor: Int64, delivered: Set<Int64>)] = []
        func step() async throws {
            for version in try await source.deliverNext() { #expect(delivered.insert(version).inserted) }
            floors.append((try await source.floor(), delivered))
        }
        let reader = try database.connect()
        try await eventually(within: .seconds(60)) {
            try await step()
            return try reader.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'writer'") == "0"
                && floors.count > 20
        }
        try await writers.value
        try await eventually {
            try await step()
            return try await source.floor() & Version.maximumSequence
                == Int64(try reader.value("SELECT last_value FROM reactions._version") ?? "")
        }
        let written = Set(try reader.query("SELECT version FROM reactions._outbox").compactMap { Int64($0[0] ?? "") })
        #expect(delivered == written)
        for moment in floors {
            #expect(written.filter { $0 <= moment.floor }.isSubset(of: moment.delivered))
        }
    }
}

/// Transactions with savepoints, some rolled back, some kept open while others commit.
private func write(to database: OutboxDatabase, as user: Int64) async throws {
    let connection = try database.connect()
    try connection.execute("SET application_name = 'writer'")
    var generator = SystemRandomNumberGenerator()
    for round in 0..<60 {
        try connection.execute("BEGIN")
        for event in 0..<Int.random(in: 1...4, using: &generator) {
            let isNested = Bool.random(using: &generator)
            if isNested { try connection.execute("SAVEPOINT s") }
            try connection.writeEvent(user: user, entity: Int64(round * 10 + event), set: 1)
            if isNested { try connection.execute(Bool.random() ? "ROLLBACK TO s" : "RELEASE s") }
            if round % 7 == 0 { for _ in 0..<20 { try connection.execute("SELECT pg_sleep(0)") } }
        }
        try connection.execute(Int.random(in: 0..<5, using: &generator) == 0 ? "ROLLBACK" : "COMMIT")
    }
}
