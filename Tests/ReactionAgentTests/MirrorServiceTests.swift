import AgentTestSupport
import Pipeline
import PostgresSource
import ReactionModel
import TestSupport
import Testing

@testable import ReactionAgent

@Suite struct MirrorServiceTests {
    @Test func everythingArrivesOnceAndTheBatchesAreFinished() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        let cache = MemoryCache()
        try await withMirror(of: database, sink: sink, cache: cache) { metrics in
            var written: [Int64] = []
            for user in 0..<200 { written.append(try writer.writeEvent(user: Int64(user), entity: 1, set: 1)) }
            try await eventually {
                try writer.value("SELECT floor FROM reactions._mirror").flatMap { Int64($0) } ?? 0 >= written.last
                    ?? .max
            }
            #expect(sink.versions.sorted() == written)
            #expect(sink.firsts == sink.inserts)
            #expect(cache.versions == Set(written))
            #expect(metrics.isReady)
            // The floor is seen as soon as it is committed, the metric a moment later.
            try await eventually { metrics.text().contains("reactiond_mirror_finished_events_total 200\n") }
        }
        #expect(try writer.value("SELECT count(*) FROM reactions._batch WHERE finished_at IS NULL") == "0")
        let lag = try writer.value(
            "SELECT sum(n) FROM reactions._batch, unnest(lag_histogram) n WHERE events > 0")
        #expect(lag == "200")
    }

    @Test func whoIsGoneIsToldToTheCacheWhenTheSinkHasIt() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        let cache = MemoryCache()
        sink.leaveUnanswered(nil)
        try await withMirror(of: database, sink: sink, cache: cache) { _ in
            for user in 1...3 { try writer.writeEvent(user: Int64(user), entity: 9, set: 1) }
            try await eventually { sink.versions.count == 3 }
            try writer.execute("BEGIN")
            let user = try writer.writeEvent(user: 7, entity: 0, set: 0, scope: "u")
            let entity = try writer.writeEvent(user: 0, entity: 9, set: 0, scope: "e")
            sink.leaveUnanswered(user)
            try writer.execute("COMMIT")
            try await eventually { sink.inserts > 4 }
            #expect(cache.dropped.isEmpty)
            #expect(cache.events.allSatisfy { $0.scope != .reaction || $0.version.rawValue < user })

            cache.setFailing(true)
            sink.leaveUnanswered(nil)
            // The epoch is raised instead, and the batch finished.
            try await eventually {
                try writer.value("SELECT epoch > 0 FROM reactions.entity_type WHERE type_id = 1") == "t"
                    && writer.value("SELECT floor >= \(entity) FROM reactions._mirror") == "t"
            }
            #expect(cache.dropped.isEmpty)

            cache.setFailing(false)
            try writer.execute("BEGIN")
            try writer.writeEvent(user: 8, entity: 0, set: 0, scope: "u")
            let again = try writer.writeEvent(user: 0, entity: 9, set: 0, scope: "e")
            try writer.execute("COMMIT")
            try await eventually { try writer.value("SELECT floor >= \(again) FROM reactions._mirror") == "t" }
            #expect(cache.dropped == [8])
            let clears = cache.events.filter { $0.version.rawValue == again && $0.scope == .reaction }
            #expect(clears.map(\.userID) == [1, 2, 3])
            #expect(clears.allSatisfy { $0.entityID == 9 && $0.setMask == 0 && $0.clearMask == 3 })
        }
    }

    @Test func aSleepingMirrorIsWokenByANotificationAndHasNoneWhileAwake() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        let asleep = """
            SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1380013139 AND objid = 2
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            """
        try await withMirror(of: database, sink: sink, idle: .milliseconds(50)) { _ in
            for round in 1...3 {
                try await eventually { try writer.value(asleep) == "1" }
                try writer.execute("BEGIN")
                try writer.writeEvent(user: Int64(round), entity: 1, set: 1)
                try writer.execute("NOTIFY reactions; COMMIT")
                try await eventually { sink.versions.count == round }
            }
        }
        #expect(try writer.value(asleep) == "0")
    }

    @Test func aRefusedEventIsParkedAndTheRestArrives() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        try writer.execute("BEGIN")
        let written = try (0..<100).map { try writer.writeEvent(user: Int64($0), entity: 1, set: 1) }
        try writer.execute("COMMIT")
        sink.refuse(written[17])
        sink.refuse(written[18])
        try await withMirror(of: database, sink: sink) { _ in
            try await eventually { sink.versions.count == 98 }
            try await eventually {
                try writer.value("SELECT count(*) FROM reactions._batch WHERE finished_at IS NULL") == "0"
            }
        }
        let parked = try writer.query("SELECT version, error_code, user_id FROM reactions.parked_event ORDER BY 1")
        #expect(parked == [["\(written[17])", "27", "17"], ["\(written[18])", "27", "18"]])
        #expect(Set(sink.versions).union([written[17], written[18]]) == Set(written))
        // Three refusals of the whole, and again a new connection for each.
        #expect(sink.connects >= 3)
    }

    @Test func anEventOfAnUnknownTypeIsParked() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        let odd = try writer.writeEvent(user: 1, entity: 1, set: 1, type: 77)
        let even = try writer.writeEvent(user: 2, entity: 1, set: 1)
        try await withMirror(of: database, sink: sink) { _ in
            try await eventually { sink.versions == [even] }
        }
        #expect(try writer.value("SELECT version FROM reactions.parked_event WHERE error_code = 0") == "\(odd)")
    }

    @Test func unknownDeltasAreResolvedAgainstEarlierBatchesWithHigherVersions() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let slow = try database.connect()
        let sink = MemorySink()
        try await withMirror(of: database, sink: sink) { _ in
            try slow.execute("BEGIN")
            try slow.writeEvent(user: 99, entity: 9, set: 1)
            try writer.writeEvent(user: 1, entity: 1, set: 1)
            try await eventually { sink.versions.count == 1 }
            try writer.execute("BEGIN")
            try writer.writeEvent(user: 1, entity: 1, set: 3, deltaKnown: false)
            try writer.writeEvent(user: 1, entity: 1, set: 2, clear: 1, deltaKnown: false)
            try slow.execute("COMMIT")
            try writer.execute("COMMIT")
            try await eventually { sink.versions.count == 4 }
        }
        let changes = sink.rows.map(\.event).filter { $0.userID == 1 }.sorted { $0.version < $1.version }
        #expect(changes.map(\.setMask) == [1, 2, 0])
        #expect(changes.map(\.clearMask) == [0, 0, 1])
        #expect(changes.allSatisfy { $0.isDeltaKnown })
    }

    @Test func aBatchIsFinishedWhenNoLateAttemptCanArriveAndTheNextOnesAreSentMeanwhile() async throws {
        let database = try await OutboxDatabase.make()
        let writer = try database.connect()
        let sink = MemorySink()
        sink.setSettled(false)
        try await withMirror(of: database, sink: sink) { _ in
            let first = try writer.writeEvent(user: 1, entity: 1, set: 1)
            try await eventually { sink.versions == [first] }
            let second = try writer.writeEvent(user: 2, entity: 1, set: 1)
            try await eventually { sink.versions == [first, second] }
            let finished = "SELECT count(*) FROM reactions._batch WHERE finished_at IS NOT NULL AND events > 0"
            #expect(try writer.value(finished) == "0")
            sink.setSettled(true)
            try await eventually { try writer.value(finished) == "2" }
        }
    }
}
