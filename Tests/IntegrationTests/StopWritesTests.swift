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
        // The same from the map alone.
        let misses = try stack.counter("misses", reader)
        #expect(try reader.query("SELECT * FROM reactions.flags_many(7, ARRAY[1, 2])") == expected)
        #expect(try stack.counter("misses", reader) == misses)
    }

    @Test("a transaction sees its own changes over the frozen table's last state, and toggles what others have written")
    func ownChanges() async throws {
        let stack = try await Stack.make()
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
        try stack.redis.connect().command("UNLINK", stack.prefix + "reactions:7")
        #expect(try other.value("SELECT reactions.toggle(7, 2, 'Cry')") == "9")
        try await stack.drained(session)
        try stack.redis.connect().command("UNLINK", stack.prefix + "reactions:7")
        #expect(try other.query(all) == [["1", "0"], ["2", "9"], ["3", "8"]])
        #expect(try session.value(#"SELECT count(*) FROM "ImageReaction""#) == "2")
    }
}
