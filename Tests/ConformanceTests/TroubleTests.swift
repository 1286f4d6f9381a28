import ClickHouseStore
import Pipeline
import ReactionAgent
import ReactionModel
import TestSupport
import Testing

@Suite struct TroubleTests {
    /// The table refuses entity 13 when it computes a default value: an error of the content on any version.
    private func refuse13(_ table: MirrorTable, _ fixture: Fixture) throws {
        try fixture.execute("ALTER TABLE {table} ADD COLUMN guard UInt8 DEFAULT throwIf(entityId = 13)", table)
    }

    @Test(arguments: Engine.allCases, MirrorTable.allCases)
    func aRefusedChunkLeavesNothingBehindAndItsPiecesGoIn(_ engine: Engine, _ table: MirrorTable) async throws {
        let fixture = try await Fixture(engine)
        try refuse13(table, fixture)
        let events = (0..<8).map { Event.change($0 + 1, user: $0, entity: $0 + 10, set: 1) }
        for _ in 0..<2 {
            let error = await #expect(throws: SinkError.self) {
                try await fixture.sink.insert(Chunk(1, events), catalog: Fixture.catalog)
            }
            #expect(error?.disposition == .rejectBatch)
            #expect(error?.code == 395)
            // A shard of a cluster may take its rows after another has refused them.
            if engine != .cluster { #expect(try fixture.counts == [0, 0, 0]) }
        }
        // Entity 13 is the fourth event. The agent bisects: 0..<4 is refused, then 0..<2, 2..<3 and 4..<8 go in.
        for piece in [0..<2, 2..<3, 4..<8] {
            let chunk = Chunk(1, part: Int32(piece.lowerBound), Array(events[piece]))
            try await eventually {
                do {
                    try await fixture.sink.insert(chunk, catalog: Fixture.catalog)
                    return true
                } catch let error as SinkError where engine == .cluster && error.disposition == .retry {
                    return false
                }
            }
        }
        #expect(try fixture.counts == [7, 7, 7])
        // After a crash the whole is sent again: it is refused, and its pieces are found.
        let error = await #expect(throws: SinkError.self) {
            try await fixture.sink.insert(Chunk(1, events), catalog: Fixture.catalog)
        }
        #expect(error?.disposition == .rejectBatch)
        try await fixture.sink.insert(Chunk(1, part: 4, Array(events[4..<8])), catalog: Fixture.catalog)
        #expect(try fixture.counts == [7, 7, 7])
        try fixture.expectDeltasAgree()
    }

    @Test(arguments: Engine.allCases)
    func anEventOfAnUnknownKindOrTypeIsRefused(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        for event in [Event.change(1, set: 1 << 20), .change(1, set: 1, type: 3)] {
            let error = await #expect(throws: SinkError.self) {
                try await fixture.sink.insert(Chunk(1, [event]), catalog: Fixture.catalog)
            }
            #expect(error?.disposition == .rejectBatch)
        }
        #expect(try fixture.counts == [0, 0, 0])
    }

    @Test(arguments: Engine.allCases)
    func whatOnlyAnOperatorCanHealStops(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        func disposition(database: String? = nil, password: String? = nil) async throws -> SinkError.Disposition? {
            let sink = ClickHouseSink(
                try ClickHouseSettings(
                    url: fixture.endpoint.url, database: database ?? fixture.database, user: fixture.endpoint.user,
                    password: password ?? fixture.endpoint.password))
            let error = await #expect(throws: SinkError.self) {
                try await sink.insert(.hundred(), catalog: Fixture.catalog)
            }
            #expect(error.map { !$0.message.contains("wrong-password") } == true)
            return error?.disposition
        }
        #expect(try await disposition(password: "wrong-password") == .stop)
        #expect(try await disposition(database: "missing") == .stop)
        try fixture.endpoint.query("DROP TABLE reactionDeltas", database: fixture.database)
        #expect(try await disposition() == .stop)
    }

    @Test(arguments: Engine.single)
    func aServerThatIsGoneIsTriedAgain(_ engine: Engine) async throws {
        let endpoint: any ClickHouseEndpoint =
            switch engine {
            case .server: try await ClickHouseServer.start()
            case .gateway: try await ChdbServer.start()
            case .cluster: try await ClickHouseCluster.start()  // ClusterTests stop its servers one by one.
            }
        let fixture = try await Fixture(endpoint)
        let before = try await fixture.sink.connect()
        #expect(try await fixture.sink.connect() == before)
        try await fixture.sink.insert(.hundred(batch: 1), catalog: Fixture.catalog)
        endpoint.stop()
        let error = await #expect(throws: SinkError.self) {
            try await fixture.sink.insert(.hundred(batch: 2), catalog: Fixture.catalog)
        }
        #expect(error?.disposition == .retry)
        try await endpoint.restart()
        try await fixture.sink.insert(.hundred(batch: 2), catalog: Fixture.catalog)
        #expect(try fixture.counts == Chunk.hundredCounts.map { $0 * 2 })
        let after = try await fixture.sink.connect()
        #expect(after.version == before.version)
    }

    /// Only a real server can be stopped in the middle: the gateway runs whatever it has received whole.
    @Test func aServer1816ThatHangsKeepsOneCopy() async throws {
        let server = try await ClickHouseServer.start()
        let fixture = try await Fixture(server)
        let sink = ClickHouseSink(
            try ClickHouseSettings(
                url: server.url, database: fixture.database, user: server.user, password: server.password,
                connectTimeout: .seconds(1), requestTimeout: .seconds(1)))
        for batch in Int64(1)...5 {
            try await eventually { (try? await sink.connect()) != nil }
            server.pause()
            let error = await #expect(throws: SinkError.self) {
                try await sink.insert(.hundred(batch: batch), catalog: Fixture.catalog)
            }
            #expect(error?.disposition == .retry)
            server.resume()
            try await eventually { (try? await sink.insert(.hundred(batch: batch), catalog: Fixture.catalog)) != nil }
        }
        #expect(try fixture.counts == Chunk.hundredCounts.map { $0 * 5 })
    }

    /// Such a server has no deduplication tokens. The late attempt is played by a copy of what it would have added.
    @Test func whatALateAttemptAddsToAServer1816IsMergedWithoutFurtherTraffic() async throws {
        let fixture = try await Fixture(.server)
        let proxy = try fixture.proxy
        let sink = try fixture.sink(through: proxy, requestTimeout: .seconds(3))
        _ = try await sink.connect()
        let chunk = Chunk.hundred()
        proxy.breakNext(containing: "query=INSERT", .loseAnswer)
        await #expect(throws: SinkError.self) { try await sink.insert(chunk, catalog: Fixture.catalog) }
        try await eventually { (try? await sink.insert(chunk, catalog: Fixture.catalog)) != nil }
        try fixture.double(.entityMetricEvents)
        #expect(try fixture.counts != Chunk.hundredCounts)
        try await eventually { try await sink.settle(chunk.batch) == nil }
        #expect(try fixture.counts == Chunk.hundredCounts)
    }

    @Test(arguments: Engine.allCases)
    func anAttemptThatHangsEndsAtItsDeadline(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let proxy = try fixture.proxy
        let sink = try fixture.sink(through: proxy, requestTimeout: .seconds(2))
        try await eventually { (try? await sink.connect()) != nil }
        proxy.breakNext(containing: "query=INSERT", .hang)
        let error = await #expect(throws: SinkError.self) {
            try await sink.insert(.hundred(), catalog: Fixture.catalog)
        }
        #expect(error?.disposition == .retry)
        try await eventually { (try? await sink.insert(.hundred(), catalog: Fixture.catalog)) != nil }
        #expect(try fixture.counts == Chunk.hundredCounts)
    }

    @Test(arguments: Engine.single)
    func theTablesAreMadeOnceAndWithoutViews(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        try await fixture.sink.insert(.hundred(), catalog: Fixture.catalog)
        let report = try ClickHouseSchema.create(fixture.settings)
        #expect(report.count == 4)
        #expect(report.allSatisfy { $0.hasSuffix(" exists") })
        #expect(try fixture.counts == Chunk.hundredCounts)
        #expect(
            try fixture.query("SELECT DISTINCT engine FROM system.tables WHERE database = '\(fixture.database)'")
                == [["ReplacingMergeTree"]])
    }

    @Test func thePrintedScriptRunsOnTheCurrentEngine() async throws {
        let gateway = try await ChdbServer.shared.value
        let database = uniqueName()
        let commands = try ClickHouseSchema.script(database: database).split(separator: ";\n").map { String($0) }
        #expect(commands.count == 5)
        for command in commands where !command.hasPrefix("USE") {
            try gateway.query(command, database: command.hasPrefix("CREATE DATABASE") ? "default" : database)
        }
        let sink = ClickHouseSink(
            try ClickHouseSettings(
                url: gateway.url, database: database, user: gateway.user, password: gateway.password))
        try await sink.insert(.hundred(), catalog: Fixture.catalog)
    }
}
