import TestSupport
import Testing

@Suite("Detaching") struct DetachTests {
    @Test("detach waits for a writer without keeping another one waiting, and deadlocks with neither")
    func betweenWriters() async throws {
        let stack = try await Stack.make()
        let first = try stack.connect()
        let second = try stack.connect()
        let control = try stack.connect()
        let admin = try stack.connect()
        try stack.makePrismaTable(first, phase: "attached")
        func insert(_ user: Int) -> String {
            "INSERT INTO \"ImageReaction\" (\"imageId\", \"userId\", reaction) VALUES (1, \(user), 'Like')"
        }
        try first.execute("BEGIN; " + insert(1))
        let pid = admin.backendPID
        async let detached = onThread { Result { try admin.execute("SELECT reactions.detach('Image')") } }
        try await eventually("detach has begun") {
            try control.value("SELECT query FROM pg_stat_activity WHERE pid = \(pid)")?.contains("detach") == true
        }
        for user in 2...20 {
            // The first one does not end before they have.
            try second.execute(insert(user))
        }
        try second.execute("SELECT reactions.react(21, 1, 'Like')")
        try first.execute("COMMIT")
        _ = try await detached.get()
        #expect(try second.value("SELECT count(*) FROM reactions._outbox") == "21")
        try second.execute(insert(22))
        #expect(try second.value("SELECT count(*) FROM reactions._outbox") == "21")
    }
}
