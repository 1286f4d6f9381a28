import Foundation
import TestSupport
import Testing

/// Everything that extension and agent say to Redis, as a user who may do what docs/security.md says and nothing else.
@Suite("Rights at Redis") struct RightsTests {
    enum Deployment: String, CaseIterable { case server, cluster }

    private func start(_ deployment: Deployment, _ rules: String) async throws -> any RedisDeployment {
        let user = ["user reactions on >password \(rules)"]
        switch deployment {
        case .server: return try await RedisServer.start(configuration: user, password: "admin")
        case .cluster: return try await RedisCluster.start(configuration: user, password: "admin")
        }
    }

    /// A file that only the server's user may read.
    private func logIn(_ stack: Stack) throws {
        try stack.connect().execute(
            "COPY (SELECT 'redis_password=password') TO PROGRAM 'umask 077 && cat > secrets_\(stack.database)'")
        try stack.set("redis_user", "reactions")
        try stack.set("secrets_file", "secrets_\(stack.database)")
    }

    private func arguments(_ stack: Stack) throws -> [String] {
        let path = stack.path("redis.password")
        try "password".write(toFile: path, atomically: true, encoding: .utf8)
        try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
        return ["--set", "redis.user=reactions", "--set", "redis.password_file=\(path)"]
    }

    @Test(
        "the documented ones are enough for reading, counting, rebuilding, reconciling and forgetting, and none is refused",
        arguments: Deployment.allCases)
    func documented(deployment: Deployment) async throws {
        let redis = try await start(deployment, try DocumentedACL.dataServers())
        let stack = try await Stack.make(redis: redis)
        try logIn(stack)
        let arguments = try arguments(stack)
        let session = try stack.connect()
        let site = CountingSite(stack: stack, session: session)
        try session.execute("SELECT reactions.add_entity_type('Image'); SET reactions.max_keys_per_transaction = 10000")
        try session.execute("UPDATE reactions.entity_type SET viral_threshold = 1200, regular_threshold = 1000")
        let port = try FreePort.next()
        let agent = try stack.startAgent(
            arguments + [
                "--set", "agent.http_port=\(port)", "--set", "reconcile.interval=0s",
                "--set", "entities.viral_dwell=0s", "--set", "entities.viral_horizon=0s",
            ])
        defer { agent.stop(15) }

        // Maps: missed, filled, applied to at commit and by the agent, read as a whole, too large, dropped.
        #expect(try session.value("SELECT reactions.flags(1, 1)") == "0")
        try session.execute("SELECT reactions.react(1, 1, 'Like')")
        #expect(try session.value("SELECT reactions.flags(1, 1)") == "1")
        #expect(try session.value("SELECT count(*) FROM reactions.by_user(1)") == "1")
        try session.execute("UPDATE reactions.entity_type SET user_map_limit = 3")
        try session.execute("SELECT reactions.react(2, e, 'Like') FROM generate_series(1, 6) e")
        for entity in 1...9 {
            #expect(try session.value("SELECT reactions.flags(2, \(entity))") == (entity < 7 ? "1" : "0"))
        }
        try session.execute("SELECT reactions.invalidate('Image', 1, 1)")
        // Counts and lists: built, counted, regular, viral and regular again.
        try await site.warm()
        for _ in 1...5 { try session.execute(CountingSite.change) }
        func tier() throws -> String? { try session.value("SELECT tier FROM reactions.entity_status(5)") }
        try session.execute("SELECT reactions.react(u, 5, 'Heart') FROM generate_series(1, 1500) u")
        try await stack.drained(session)
        #expect(try tier() == "viral")
        #expect(try session.value("SELECT count(*) FROM reactions.reactors(5, page_size => 100)") == "100")
        try session.execute("SELECT reactions.set_flags(u, 5, 0) FROM generate_series(300, 1500) u")
        try await eventually("the post is regular") { try tier() == "regular" }

        // What is wrong is found and repaired.
        try redis.command("HINCRBY", site.key(3, "reaction_counts"), "Like", "1")
        try redis.command("SET", site.key(4, "sample"), "left over")
        try redis.command("UNLINK", site.key(6, "reactions"))
        try redis.command("LPUSH", site.key(7, "viral"), "of another type")
        let report = try await stack.reactiond("reconcile", arguments + ["--deep"])
        #expect(report.contains("drift"))
        #expect(report.contains("leftover"))

        // A user is forgotten, an entity is gone.
        #expect(try session.value("SELECT reactions.flags(3, 5)") != nil)
        try session.execute("CALL reactions.forget_user(3)")
        try session.execute("SELECT reactions.forget_entity(2)")
        try await stack.drained(session)
        try await eventually(within: .seconds(30), "the map is dropped") {
            try redis.command("EXISTS", stack.prefix + "reactions:3") == .integer(0)
        }

        // Compared reads are kept in Redis until somebody takes them.
        try session.execute(
            """
            CREATE TABLE old (u bigint NOT NULL, e bigint NOT NULL, k text NOT NULL, UNIQUE (u, e, k));
            INSERT INTO old SELECT 1, g, 'Like' FROM generate_series(1, 9) g;
            SELECT reactions.attach('old', 'Old', 'u', 'e', 'k')
            """)
        try session.execute("CALL reactions.advance('Old', force => true)")
        try session.execute("SET reactions.compare_share = 1")
        for _ in 1...3 {
            #expect(try session.value("SELECT sum(flags) FROM reactions.flags_many(1, '{1,2,3}', 'Old')") == "3")
        }
        try session.execute("CALL reactions._digest_compared()")

        // Operations.
        #expect(
            try session.query("SELECT \"check\" FROM reactions.doctor() WHERE \"check\" LIKE 'redis%' AND NOT ok") == []
        )
        let diagnosis = try await stack.reactiond("doctor", arguments)
        #expect(!diagnosis.contains("FAILED redis"))
        #expect(try HTTP.request("http://127.0.0.1:\(port)/metrics").text.contains("reactiond_"))

        try await stack.drained(session)
        try await site.warm()
        let (served, truth) = (try site.served(), try site.truth)
        #expect(served == truth)
        for server in redis.servers { #expect(try server.connect().command("ACL", "LOG") == .array([])) }
        #expect(!stack.agentLog().contains("NOPERM"))
    }
}
