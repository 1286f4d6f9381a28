import ClickHouseStore
import Pipeline
import ReactionModel
import TestSupport
import Testing

@testable import ReactionAgent

/// What only a cluster can get wrong: two shards of two replicas each.
@Suite struct ClusterTests {
    /// The rows that a server has itself.
    private func local(_ server: ClickHouseServer, _ fixture: Fixture, _ what: String) throws -> [[String]] {
        try server.rows(what, database: fixture.database)
    }

    private func delivered(_ chunk: Chunk, _ sink: ClickHouseSink) async throws {
        try await eventually("the cluster takes the chunk") {
            do {
                try await sink.insert(chunk, catalog: Fixture.catalog)
                return true
            } catch let error as SinkError where error.disposition == .retry {
                return false
            }
        }
    }

    @Test func aDeadShardTakesItsHalfLaterAndTheOtherHalfStaysSingle() async throws {
        let cluster = try await ClickHouseCluster.start()
        let fixture = try await Fixture(cluster)
        let alive = cluster.shards[1][0]
        let sink = ClickHouseSink(
            try ClickHouseSettings(
                url: alive.url, database: fixture.database, user: cluster.user, password: cluster.password,
                requestTimeout: .seconds(10)))
        try await sink.insert(.hundred(batch: 1), catalog: Fixture.catalog)
        for server in cluster.shards[0] { server.kill() }
        for _ in 0..<3 {
            let error = await #expect(throws: SinkError.self) {
                try await sink.insert(.hundred(batch: 2), catalog: Fixture.catalog, isFirst: true)
            }
            #expect(error?.disposition == .retry)
        }
        // The shard that lives may have taken its rows. An answer is for the whole cluster, or none.
        #expect(throws: ClickHouseError.self) {
            try alive.rows("SELECT count() FROM reactionsByEntity", database: fixture.database)
        }

        for server in cluster.shards[0] { try await server.restart() }
        try await delivered(.hundred(batch: 2), sink)
        #expect(try fixture.counts == Chunk.hundredCounts.map { $0 * 2 })
        #expect(try await fixture.sink.contains(.hundred(batch: 1), catalog: Fixture.catalog))
        #expect(try await fixture.sink.contains(.hundred(batch: 2), catalog: Fixture.catalog))
        try fixture.expectDeltasAgree()
    }

    @Test func whatOneShardHasTakenItDropsWhenTheOtherGetsItsOwn() async throws {
        let model = try await Fixture(.cluster)
        let fixture = try await Fixture(.cluster)
        let cluster = try await ClickHouseCluster.shared.value
        let shard = cluster.shards[1][0]
        try await model.sink.insert(.hundred(), catalog: Fixture.catalog)
        // As an attempt leaves it that the other shard did not hear of.
        for table in MirrorTable.allCases {
            try shard.query(
                "INSERT INTO \(table)_local SELECT * FROM \(model.database).\(table)_local", database: fixture.database,
                settings: ["insert_quorum": "2"])
        }
        let half = try fixture.counts
        #expect(zip(half, Chunk.hundredCounts).allSatisfy { $0 > 0 && $0 < $1 })

        try await fixture.sink.insert(.hundred(), catalog: Fixture.catalog)
        #expect(try fixture.counts == Chunk.hundredCounts)
        for (table, rows) in zip(MirrorTable.allCases, half) {
            #expect(try local(shard, fixture, "SELECT count() FROM \(table)_local") == [[String(rows)]])
        }
        try fixture.expectDeltasAgree()
    }

    @Test func withoutAReplicaNothingIsConfirmedAndEverythingConfirmedIsRead() async throws {
        let cluster = try await ClickHouseCluster.start()
        let fixture = try await Fixture(cluster)
        let settings = try ClickHouseSettings(
            url: cluster.url, database: fixture.database, user: cluster.user, password: cluster.password,
            requestTimeout: .seconds(10))
        let sink = ClickHouseSink(settings)
        try await sink.insert(.hundred(batch: 1), catalog: Fixture.catalog)
        // The second replica has all that is confirmed, and answers when the first is gone.
        cluster.shards[1][0].kill()
        #expect(try fixture.counts == Chunk.hundredCounts)

        let error = await #expect(throws: SinkError.self) {
            try await sink.insert(.hundred(batch: 2), catalog: Fixture.catalog)
        }
        #expect(error?.disposition == .retry)
        // What has no quorum is on the replica that lives, and is in no answer.
        #expect(try fixture.query("SELECT count() FROM entityMetricEvents WHERE batch = 2") == [["0"]])
        try await cluster.shards[1][0].restart()
        try await delivered(.hundred(batch: 2), sink)
        #expect(try fixture.counts == Chunk.hundredCounts.map { $0 * 2 })
        try fixture.expectDeltasAgree()
    }

    /// A shard remembers the block although its rows are gone.
    @Test(arguments: MirrorTable.allCases)
    func whatOneShardHasLostIsSentAgainAndTheOthersKeepOneCopy(_ table: MirrorTable) async throws {
        let fixture = try await Fixture(.cluster)
        let cluster = try await ClickHouseCluster.shared.value
        let chunk = Chunk.hundred()
        try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
        try fixture.delete("batch = 1", from: table, at: cluster.shards[1][0])
        let whole = Chunk.hundredCounts[MirrorTable.allCases.firstIndex(of: table) ?? 0]
        try await eventually { try fixture.count(table.rawValue) < whole }
        #expect(try fixture.count(table.rawValue) > 0)
        #expect(try await !fixture.sink.contains(chunk, catalog: Fixture.catalog))

        try await delivered(chunk, fixture.sink)
        #expect(try fixture.counts == Chunk.hundredCounts)
        #expect(try await fixture.sink.contains(chunk, catalog: Fixture.catalog))
        try fixture.expectDeltasAgree()
    }

    /// One shard's rows twice and another's not at all are as many, and their deltas add up to the same.
    @Test func rowsThatAreThereTwiceDoNotPassForThoseThatAreMissing() async throws {
        let fixture = try await Fixture(.cluster)
        let cluster = try await ClickHouseCluster.shared.value
        // Two entities on each shard.
        var entities: [[Int64]] = [[], []]
        for id in Int64(1)...100 {
            let shard = try Int(#require(fixture.query("SELECT intHash64(\(id)) % 2").first?.first)) ?? 0
            if entities[shard].count < 2 { entities[shard].append(id) }
        }
        let chunk = Chunk(
            1, entities.flatMap { $0 }.enumerated().map { .change(Int64($0.offset) + 1, entity: $0.element, set: 1) })
        try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
        try fixture.double(.reactionDeltas)
        try fixture.delete("batch = 1", from: .reactionDeltas, at: cluster.shards[1][0])
        try await eventually { try fixture.count("reactionDeltas") == 4 }
        #expect(try fixture.query("SELECT sum(delta) FROM reactionDeltas") == [["4"]])

        #expect(try await !fixture.sink.contains(chunk, catalog: Fixture.catalog))
        try await delivered(chunk, fixture.sink)
        #expect(try fixture.counts == [4, 4, 4])
        try fixture.expectDeltasAgree()
    }

    @Test func usersAndEntitiesAreOnOneShardEach() async throws {
        let fixture = try await Fixture(.cluster)
        let cluster = try await ClickHouseCluster.shared.value
        for batch in Int64(1)...3 { try await fixture.sink.insert(.hundred(batch: batch), catalog: Fixture.catalog) }
        for (table, column) in [
            ("entityMetricEvents", "userId"), ("reactionsByEntity", "entityId"), ("reactionDeltas", "entityId"),
        ] {
            let ids = try cluster.shards.map { shard in
                Set(try local(shard[0], fixture, "SELECT DISTINCT \(column) FROM \(table)_local").compactMap(\.first))
            }
            #expect(!ids[0].isEmpty && !ids[1].isEmpty)
            #expect(ids[0].isDisjoint(with: ids[1]))
        }
    }

    /// 18.16 goes on looking for the last part of a partition that was dropped.
    @Test func aReadingThatWasGivenUpIsDroppedAndTheRestIsRead() async throws {
        let fixture = try await Fixture(.cluster)
        let partition: Int64 = 5
        let batch = partition * MirrorTable.batchesPerPartition + 3
        try await fixture.sink.insert(.hundred(batch: 1), catalog: Fixture.catalog)
        try await fixture.sink.insert(.hundred(batch: batch), catalog: Fixture.catalog)
        let store = BackfillStore(fixture.settings)
        for table in MirrorTable.allCases {
            try await store.drop(partition: partition, from: table)
            try await eventually { try await !store.hasRows(partition: partition, in: table) }
        }
        #expect(try fixture.counts == Chunk.hundredCounts)
    }

    @Test func theTablesAreMadeOnEveryServerOnce() async throws {
        let fixture = try await Fixture(.cluster)
        let cluster = try await ClickHouseCluster.shared.value
        let again = try ClickHouseSchema.create(fixture.settings, cluster: ClickHouseCluster.name)
        #expect(again.count == 7)
        for server in cluster.servers {
            let engines = try server.rows(
                "SELECT engine, count() FROM system.tables WHERE database = '\(fixture.database)' GROUP BY engine ORDER BY engine"
            )
            #expect(engines == [["Distributed", "3"], ["ReplicatedReplacingMergeTree", "3"]])
        }
        #expect(throws: SinkError.self) { try ClickHouseSchema.create(fixture.settings, cluster: "unknown") }
        #expect(throws: SinkError.self) { try ClickHouseSchema.create(fixture.settings, cluster: "a'b") }
    }

    @Test func oneServersTablesAreNotTakenForAClusters() async throws {
        let cluster = try await ClickHouseCluster.shared.value
        let settings = try ClickHouseSettings(
            url: cluster.url, database: uniqueName(), user: cluster.user, password: cluster.password)
        _ = try ClickHouseSchema.create(settings)
        let error = #expect(throws: SinkError.self) {
            try ClickHouseSchema.create(settings, cluster: ClickHouseCluster.name)
        }
        #expect(error?.disposition == .stop)
    }

    /// chDB has no cluster to run it on.
    @Test func the26Point9EngineReadsThePrintedScriptAndKnowsTheSettings() async throws {
        let gateway = try await ChdbServer.shared.value
        let commands = try ClickHouseSchema.script(database: "mirror", cluster: "main").split(separator: ";\n")
        #expect(commands.count == 7)
        for command in commands {
            #expect(command.contains("ON CLUSTER `main`"))
            let tree = try gateway.query("EXPLAIN AST " + command)
            #expect(tree.hasPrefix("CreateQuery"))
        }
        let cluster = try #require(MirrorCluster(name: "main", replicas: 3))
        let abilities = ServerAbilities(rows: try gateway.rows(ServerAbilities.query))
        for setting in cluster.settings(abilities, within: 30) {
            #expect(try gateway.rows("SELECT 1 FROM system.settings WHERE name = '\(setting.name)'") == [["1"]])
        }
        #expect(abilities.knows(setting: "insert_quorum_parallel"))
        for statement in [
            BackfillQuery.drop(partition: 5, from: .entityMetricEvents, on: cluster, database: "mirror"),
            ChunkQuery.deletionsAtWork(on: .reactionDeltas, cluster, database: "mirror"),
            ChunkQuery(batch: BatchNumber(rawValue: 7), part: 0, eventCount: 5).tallies(on: cluster),
            ChunkQuery(batch: BatchNumber(rawValue: 7), part: 0, eventCount: 5)
                .optimize(.reactionDeltas, on: cluster, database: "mirror"),
        ] {
            #expect(try !gateway.query("EXPLAIN AST " + statement).isEmpty)
        }
    }
}
