import Synchronization
import TestSupport
import Testing

/// Phase `stop_writes`: the table is frozen, reads come from Redis and ClickHouse.
@Suite(.serialized) struct StopWrites {
    /// A type in `switch_reads` whose table was empty when it was attached.
    private func switched(_ stack: Stack) throws -> PostgresConnection {
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        return session
    }

    @Test("a read that asks the table after it was frozen is answered, and fills the map, from ClickHouse")
    func lateQuestion() async throws {
        let stack = try await Stack.make()
        let session = try switched(stack)
        try session.execute(#"INSERT INTO "ImageReaction" ("imageId", "userId", reaction) VALUES (1, 7, 'Heart')"#)
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try await stack.drained(session)

        // The reader knows that the table is the truth and that Redis has no map, and stops before it asks the table.
        let proxy = try FaultProxy(target: stack.redis.port)
        let reader = try stack.connect()
        try reader.execute(
            "SET reactions.redis_url = 'redis://127.0.0.1:\(proxy.port)/0'; SET reactions.redis_timeout = '60s'")
        // Scripts are loaded by then.
        #expect(try reader.value("SELECT reactions.flags(8, 1)") == "0")
        try stack.redis.connect().command("UNLINK", stack.prefix + "reactions:7")
        proxy.breakNext(containing: "EVALSHA", .holdAnswer)
        async let late = onThread { Result { try reader.query("SELECT * FROM reactions.flags_many(7, ARRAY[1, 2])") } }
        try await eventually("the reader is held up") { proxy.faults == 1 }

        try session.execute("CALL reactions.advance('Image', force => true)")
        try session.execute("SELECT reactions.react(7, 2, 'Like'), reactions.unreact(7, 1, 'Heart')")
        try await stack.drained(session)
        #expect(try session.value(#"SELECT count(*) FROM "ImageReaction""#) == "1")
        proxy.release()
        let expected = [["1", "0"], ["2", "1"]]
        #expect(try await late.get() == expected)
        #expect(try session.query("SELECT * FROM reactions.flags_many(7, ARRAY[1, 2])") == expected)
        // The lease of the read that was begun again ends by itself. Then the map is filled, with the same.
        try await eventually("the map is filled") {
            #expect(try reader.query("SELECT * FROM reactions.flags_many(7, ARRAY[1, 2])") == expected)
            let fields = try stack.redis.connect().command("HMGET", stack.prefix + "reactions:7", "1", "2").array
            // In a complete map what is absent is none.
            return fields?[1].string?.first == "1" && fields?[0].string?.first != "?"
        }
    }

    @Test(
        "a transaction sees its own changes over the frozen table's last state, and toggles what others have written",
        arguments: RedisKind.allCases)
    func ownChanges(kind: RedisKind) async throws {
        let stack = try await Stack.make(redis: kind.shared())
        let session = try switched(stack)
        try session.execute(
            #"INSERT INTO "ImageReaction" ("imageId", "userId", reaction) VALUES (1, 7, 'Heart'), (2, 7, 'Like')"#)
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        try await stack.drained(session)
        try session.execute("CALL reactions.advance('Image', force => true)")

        try session.execute("BEGIN")
        #expect(try session.value("SELECT reactions.toggle(7, 1, 'Heart')") == "0")
        try session.execute("SELECT reactions.set_flags(7, 3, 8)")
        let all = "SELECT * FROM reactions.flags_many(7, ARRAY[1, 2, 3])"
        #expect(try session.query(all) == [["1", "0"], ["2", "1"], ["3", "8"]])
        #expect(try session.query("SELECT * FROM reactions.by_user(7)") == [["2", "1"], ["3", "8"]])
        let other = try stack.connect()
        #expect(try other.query(all) == [["1", "2"], ["2", "1"], ["3", "0"]])
        try session.execute("COMMIT")
        try await eventually("the other session sees it") {
            try other.query(all) == [["1", "0"], ["2", "1"], ["3", "8"]]
        }
        // Without Redis's help: from ClickHouse under the outbox.
        try stack.redisDeployment.command("UNLINK", stack.prefix + "reactions:7")
        #expect(try other.value("SELECT reactions.toggle(7, 2, 'Cry')") == "9")
        try await stack.drained(session)
        try stack.redisDeployment.command("UNLINK", stack.prefix + "reactions:7")
        #expect(try other.query(all) == [["1", "0"], ["2", "9"], ["3", "8"]])
        #expect(try session.value(#"SELECT count(*) FROM "ImageReaction""#) == "2")
    }

    @Test("a flip that finds no gap gives up after a while, keeps nobody waiting meanwhile, and changes nothing")
    func noGap() async throws {
        let stack = try await Stack.make()
        let session = try switched(stack)
        try session.execute("SELECT reactions.prepare_stop_writes('Image')")
        let other = try stack.connect()
        try session.execute("BEGIN; SELECT reactions.react(1, 1, 'Like')")
        let admin = try stack.connect()
        let pid = admin.backendPID
        async let advanced = onThread { Result { try admin.execute("CALL reactions.advance('Image', force => true)") } }
        try await eventually("the flip is tried") {
            try other.value("SELECT count(*) FROM pg_stat_activity WHERE pid = \(pid) AND wait_event = 'PgSleep'")
                == "1"
        }
        for entity in 1...20 {
            let taken = try milliseconds { try other.execute("SELECT reactions.react(2, \(entity), 'Like')") }
            #expect(taken < 1000, "took \(taken) ms")
        }
        do {
            _ = try await advanced.get()
            Issue.record("the flip went through")
        } catch let error as PostgresError {
            #expect(error.sqlstate == "55P03")
        }
        let phase = "SELECT phase, stop_version FROM reactions.entity_type"
        #expect(try other.query(phase) == [["switch_reads", nil]])
        #expect(try other.value("SELECT count(*) FROM reactions.phase_log WHERE to_phase = 'stop_writes'") == "0")
        try session.execute("COMMIT")
        try admin.execute("CALL reactions.advance('Image', force => true)")
        #expect(try other.value("SELECT phase FROM reactions.entity_type") == "stop_writes")
    }

    @Test("writers with their own SQL, and with the functions, lose nothing while the table is frozen under them")
    func writersAcrossTheFlip() async throws {
        let stack = try await Stack.make()
        let session = try switched(stack)
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        let writers = try (0..<6).map {
            Writer(session: try stack.connect(), user: 100 + $0, usesFunctions: $0 % 2 == 1)
        }
        let admin = try stack.connect()
        async let ended: Void = withTaskGroup(of: Void.self) { group in
            for writer in writers { group.addTask { await onThread { writer.work() } } }
        }
        try await eventually("everybody writes") { writers.allSatisfy { $0.rounds > 50 } }
        try admin.execute("CALL reactions.advance('Image', force => true)")
        let frozen = writers.map(\.rounds)
        try await eventually("everybody writes again") { zip(writers, frozen).allSatisfy { $0.rounds > $1 + 50 } }
        writers.forEach { $0.stop() }
        await ended
        for writer in writers {
            #expect(writer.trouble.withLock { $0 } == [])
            let expected = writer.flags.withLock { $0 }
            let read = "SELECT entity_id, flags FROM reactions.by_user(\(writer.user), page_size => 1000)"
            func found() throws -> [Int: Int] {
                Dictionary(
                    uniqueKeysWithValues: try session.query(read).map { (Int($0[0] ?? "") ?? 0, Int($0[1] ?? "") ?? 0) }
                )
            }
            try await eventually("what was written last is read") { try found() == expected }
            try await stack.drained(session)
            try stack.redis.connect().command("UNLINK", stack.prefix + "reactions:\(writer.user)")
            #expect(try found() == expected)
        }
    }
}

/// Sets and clears reactions of one user, and knows what must come of it. One that uses its own SQL goes over to the functions when
/// the table is closed to it.
private final class Writer: Sendable {
    let session: PostgresConnection
    let user: Int
    let flags = Mutex<[Int: Int]>([:])
    let trouble = Mutex<[String]>([])
    private let done = Mutex(0)
    private let isStopping = Mutex(false)
    private let usesFunctions: Mutex<Bool>

    init(session: PostgresConnection, user: Int, usesFunctions: Bool) {
        self.session = session
        self.user = user
        self.usesFunctions = Mutex(usesFunctions)
    }

    var rounds: Int { done.withLock { $0 } }

    func stop() { isStopping.withLock { $0 = true } }

    func work() {
        while !isStopping.withLock({ $0 }), trouble.withLock({ $0.isEmpty }) {
            change(entity: 1 + rounds % 40, sets: Int.random(in: 0...2) > 0)
            done.withLock { $0 += 1 }
        }
    }

    private func change(entity: Int, sets: Bool) {
        while true {
            do {
                try session.execute(statement(entity: entity, sets: sets))
                return flags.withLock { $0[entity] = sets ? 1 : nil }
            } catch let error as PostgresError where error.sqlstate == "40001" {
                continue
            } catch let error as PostgresError where error.sqlstate == "55000" {
                usesFunctions.withLock { $0 = true }
            } catch {
                return trouble.withLock { $0.append("\(error)") }
            }
        }
    }

    private func statement(entity: Int, sets: Bool) -> String {
        if usesFunctions.withLock({ $0 }) {
            return "SELECT reactions.\(sets ? "react" : "unreact")(\(user), \(entity), 'Like')"
        }
        return sets
            ? #"INSERT INTO "ImageReaction" ("imageId", "userId", reaction) VALUES (\#(entity), \#(user), 'Like') ON CONFLICT DO NOTHING"#
            : #"DELETE FROM "ImageReaction" WHERE "userId" = \#(user) AND "imageId" = \#(entity)"#
    }
}
