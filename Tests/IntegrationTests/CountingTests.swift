import Glibc
import TestSupport
import Testing

/// The agent's counters: whatever happens, at the end Redis holds the truth.
@Suite("Counting") struct CountingTests {
    @Test("an agent that is killed around confirmation, counting and finish counts every event once")
    func killed() async throws {
        let site = try await CountingSite.make()
        var agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.warm()
        try await site.underLoad {
            for _ in 1...10 {
                let confirmed = "SELECT count(*) FROM reactions._batch WHERE confirmed_at IS NOT NULL"
                let before = try site.session.value(confirmed)
                try await eventually("a batch is confirmed") { try site.session.value(confirmed) != before }
                agent.stop(SIGKILL)
                agent = try site.stack.startAgent()
            }
        }
        try await site.expectTruth()
    }

    @Test("an agent that is killed while Redis does not answer counts what it had sent once")
    func killedBeforeAnAnswer() async throws {
        let redis = try await RedisServer.start()
        let site = try await CountingSite.make(redis: redis)
        var agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.warm()
        for _ in 1...5 {
            try site.session.execute(
                "SET reactions.redis_timeout = '100ms'; SET reactions.redis_connect_timeout = '100ms'")
            let batches = "SELECT count(*) FROM reactions._batch WHERE confirmed_at IS NOT NULL AND finished_at IS NULL"
            redis.pause()
            try site.session.execute(CountingSite.change)
            try await eventually("a batch waits for Redis") { try site.session.value(batches) != "0" }
            agent.stop(SIGKILL)
            redis.resume()
            agent = try site.stack.startAgent()
            try site.session.execute("RESET reactions.redis_timeout; RESET reactions.redis_connect_timeout")
            try await site.stack.drained(site.session)
        }
        try await site.expectTruth()
    }

    @Test("an entity that ClickHouse cannot tell about does not keep the others waiting")
    func oneThatFails() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let proxy = try FaultProxy(target: clickHouse.httpPort)
        let site = try await CountingSite.make(clickHouse: clickHouse)
        let agent = try site.stack.startAgent(["--set", "clickhouse.url=http://127.0.0.1:\(proxy.port)"])
        defer { agent.stop(15) }
        try site.session.execute(CountingSite.change)
        try await site.stack.drained(site.session)
        // Nobody has reacted to it, so nothing else that the agent sends names it.
        let failing = "987654321"
        proxy.breakEvery(containing: failing, .cutRequest(afterBytes: 0))
        let status = "SELECT (reactions.entity_status(\(failing))).tier IS NULL"
        try await eventually("the others are in Redis") {
            try site.session.execute(
                "SELECT reactions.counts(ARRAY(SELECT generate_series(0, 9)::bigint) || \(failing)::bigint)")
            return try site.session.value(
                "SELECT bool_and((reactions.entity_status(e)).tier IS NOT NULL) FROM generate_series(0, 9) e") == "t"
        }
        #expect(proxy.faults > 0)
        #expect(try site.session.value(status) == "t")
        try await site.expectTruth()
        proxy.mend()
        try await eventually("it is in Redis, too") {
            try site.session.execute("SELECT reactions.total(\(failing))")
            return try site.session.value(status) == "f"
        }
    }

    @Test("a Redis that is given older contents while it runs is noticed, and nothing of them is counted on")
    func restoredInPlace() async throws {
        let redis = try await RedisServer.start(configuration: ["enable-debug-command local"])
        let site = try await CountingSite.make(redis: redis)
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.warm()
        let session = site.session
        let admin = try redis.connect()
        for round in 1...3 {
            try session.execute(CountingSite.change)
            try await site.expectTruth()
            try admin.command("SAVE")
            try session.execute(CountingSite.change)
            try await site.stack.drained(session)
            let epoch = try session.value("SELECT epoch FROM reactions.entity_type")
            try admin.command("DEBUG", "RELOAD", "NOSAVE")
            // In the last round nobody writes: the agent notices by itself.
            if round < 3 { try session.execute(CountingSite.change) }
            try await eventually("the epoch is raised") {
                try session.value("SELECT epoch FROM reactions.entity_type") != epoch
            }
            try await site.expectTruth()
        }
    }

    @Test(
        "a Redis that is emptied, restarted, restarted with an old file, or full is wrong at no time, and right at the end",
        arguments: ["FLUSHALL", "restart", "old file", "eviction", "scripts", "no memory"])
    func lost(what: String) async throws {
        let redis = try await RedisServer.start(configuration: ["maxmemory-policy volatile-lru"])
        let site = try await CountingSite.make(redis: redis)
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.warm()
        if what == "old file" {
            try site.session.execute(CountingSite.change)
            try await site.stack.drained(site.session)
            try redis.connect().command("SAVE")
        }
        // 77 is reacted to by ever more users: there is no fewer than what is finished, and no more than what is committed.
        let writer = try site.stack.connect()
        let reader = try site.stack.connect()
        var users = 0
        func check(_ rounds: Int) throws {
            for _ in 1...rounds {
                users += 1
                try writer.execute("SELECT reactions.react(\(users), 77, 'Like')")
                let finished = try reader.value(
                    """
                    SELECT count(*) FROM reactions._outbox WHERE entity_id = 77 AND version <= (SELECT floor FROM reactions._mirror)
                    """)
                let seen = try reader.value("SELECT reactions.total(77)")
                #expect(Int(seen ?? "") ?? -1 >= Int(finished ?? "") ?? .max, "\(what)")
                #expect(Int(seen ?? "") ?? .max <= users, "\(what)")
            }
        }
        try await site.underLoad {
            for _ in 1...3 {
                try check(20)
                switch what {
                case "FLUSHALL": try redis.connect().command("FLUSHALL")
                case "scripts": try redis.connect().command("SCRIPT", "FLUSH")
                case "restart", "old file": try await redis.restart()
                case "eviction":
                    try redis.connect().command("CONFIG", "SET", "maxmemory", "1")
                    try check(10)
                    try redis.connect().command("CONFIG", "SET", "maxmemory", "0")
                default:
                    try redis.connect().command("CONFIG", "SET", "maxmemory-policy", "noeviction")
                    try redis.connect().command("CONFIG", "SET", "maxmemory", "1")
                    try check(10)
                    try redis.connect().command("CONFIG", "SET", "maxmemory", "0")
                }
                try check(20)
            }
        }
        try await site.stack.drained(site.session)
        #expect(try site.session.value("SELECT reactions.total(77)") == "\(users)")
        try await site.expectTruth()
    }

    @Test("keys of another type are left alone, reported, and no reason to fail")
    func planted() async throws {
        let site = try await CountingSite.make()
        let port = try FreePort.next()
        let agent = try site.stack.startAgent(["--set", "agent.http_port=\(port)"])
        defer { agent.stop(15) }
        try await site.warm()
        let redis = try site.stack.redis.connect()
        let counts = site.key(3, "reaction_counts")
        try redis.command("UNLINK", counts)
        try redis.command("LPUSH", counts, "somebody", "else's")
        // Lists and the like are replaced: they are ours by the marker of the counts.
        try redis.command("UNLINK", site.key(4, "reactions"))
        try redis.command("LPUSH", site.key(4, "reactions"), "planted")
        try redis.command("SET", "\(site.stack.prefix)reactions:wanted:Image", "planted")
        try redis.command("UNLINK", "\(site.stack.prefix)reactions:applied:Image:5")
        for _ in 1...5 { try site.session.execute(CountingSite.change) }
        try await site.stack.drained(site.session)
        #expect(try site.served() == site.truth)
        #expect(try redis.command("LRANGE", counts, "0", "-1") == .array([.string("else's"), .string("somebody")]))
        let page = try HTTP.request("http://127.0.0.1:\(port)/metrics").text
        #expect(page.contains("\nreactiond_entity_foreign_keys_total ") && !page.contains("foreign_keys_total 0\n"))
        // The planted key of wanted entities the agent has removed itself.
        try redis.command("UNLINK", counts)
        try await site.expectTruth()
    }

    @Test("users and entities that are gone are gone from counts and lists")
    func gone() async throws {
        let site = try await CountingSite.make()
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        for _ in 1...20 { try site.session.execute(CountingSite.change) }
        try await site.expectTruth()
        try await site.underLoad {
            for user in 1...20 { try site.session.execute("CALL reactions.forget_user(\(user))") }
        }
        try await site.expectTruth()
        // Once more, with nothing but the user's removal between two looks.
        let total = "SELECT sum(reactions.total(e)) FROM generate_series(0, 9) e"
        let before = Int(try site.session.value(total) ?? "") ?? 0
        try site.session.execute("CALL reactions.forget_user(200)")
        try await site.expectTruth()
        #expect(Int(try site.session.value(total) ?? "") ?? 0 <= before)
        try site.session.execute("SELECT reactions.forget_entity(3)")
        try site.session.execute("SELECT reactions.react(1, 3, 'Like')")
        try await site.expectTruth()
        #expect(try site.session.value("SELECT reactions.total(3)") == "1")
    }

    @Test("a post becomes viral and regular again, with everybody, and tells why")
    func tiers() async throws {
        let site = try await CountingSite.make()
        let session = site.session
        try session.execute("UPDATE reactions.entity_type SET viral_threshold = 1500, regular_threshold = 1200")
        let agent = try site.stack.startAgent([
            "--set", "entities.viral_dwell=0s", "--set", "entities.viral_horizon=0s",
        ])
        defer { agent.stop(15) }
        try await site.warm()
        try session.execute("SET reactions.max_keys_per_transaction = 10000")
        func tier() throws -> [String?] {
            try session.query("SELECT tier, tier_reason FROM reactions.entity_status(5)")[0]
        }
        #expect(try tier() == ["regular", "few"])
        let redis = try site.stack.redis.connect()
        for _ in 1...2 {
            try session.execute("SELECT reactions.react(u, 5, 'Like') FROM generate_series(1, 1499) u")
            try await site.stack.drained(session)
            #expect(try tier() == ["regular", "few"])
            try session.execute("SELECT reactions.react(1, 5, 'Heart')")
            try await site.stack.drained(session)
            #expect(try tier() == ["viral", "many"])
            #expect(try redis.command("GET", site.key(5, "total_reactions")) == .string("1500"))
            #expect(try redis.command("EXISTS", site.key(5, "reactions")) == .integer(0))
            #expect(try session.value("SELECT reactions.unique_reactors(5)") == "1499")
            // Between the thresholds it stays what it is.
            try session.execute("SELECT reactions.unreact(u, 5, 'Like') FROM generate_series(1001, 1300) u")
            try await site.stack.drained(session)
            #expect(try tier() == ["viral", "many"])
            try session.execute("SELECT reactions.unreact(u, 5, 'Like') FROM generate_series(1301, 1400) u")
            try await site.stack.drained(session)
            try await eventually("the post is regular") { try tier() == ["regular", "few"] }
            for key in ["total_reactions", "viral", "sample"] {
                #expect(try redis.command("EXISTS", site.key(5, key)) == .integer(0))
            }
            #expect(
                try session.value("SELECT count(*) FROM reactions.reactors(5, page_size => 1000)") == "1000")
            try session.execute("SELECT reactions.unreact(1, 5, 'Heart')")
        }
    }

    @Test("a count that ClickHouse tells below zero is refused, kept nowhere, and right again when it is")
    func belowZero() async throws {
        let site = try await CountingSite.make()
        let session = site.session
        try session.execute("UPDATE reactions.entity_type SET viral_threshold = 100, regular_threshold = 80")
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try session.execute("SELECT reactions.react(u, 5, 'Like') FROM generate_series(1, 200) u")
        try session.execute("SELECT reactions.react(1, 5, 'Heart')")
        try await site.stack.drained(session)
        func plant(_ delta: Int, part: Int) throws {
            _ = try site.stack.clickHouseRows(
                """
                INSERT INTO {db}.reactionDeltas (entityType, entityId, metricType, delta, batch, part)
                SELECT entityType, entityId, metricType, \(delta), batch, \(part) FROM {db}.reactionDeltas
                WHERE entityId = 5 AND toString(metricType) LIKE '%Heart' LIMIT 1
                """)
        }
        try plant(-3, part: 900_000)
        for _ in 1...3 {
            let error = #expect(throws: (any Error).self) {
                try session.execute("SELECT reactions.counts(ARRAY[5]::bigint[])")
            }
            #expect("\(error, default: "")".contains("less than zero"))
        }
        try await eventually("the agent has refused it") { agent.log.contains("a count below zero") }
        #expect(try session.value("SELECT (reactions.entity_status(5)).tier IS NULL") == "t")
        try plant(3, part: 900_001)
        try await site.expectTruth()
        #expect(try session.value("SELECT reactions.total(5)") == "201")
    }

    @Test("entities of a table that nobody writes to are in Redis all the same", arguments: [false, true])
    func withoutABatch(hasRows: Bool) async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try session.execute(
            """
            CREATE TABLE reaction (u integer, e integer, kind text NOT NULL, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (u, e));
            INSERT INTO reaction SELECT u, 7, 'Like' FROM generate_series(1, \(hasRows ? 40 : 0)) u;
            SELECT reactions.attach('reaction', 'Image', 'u', 'e', 'kind', 'at', mode => 'exclusive', phase => 'switch_reads')
            """)
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        if hasRows { try await stack.reactiond("backfill") }
        try await eventually("the entity is in Redis") {
            #expect(try session.value("SELECT reactions.total(7)") == (hasRows ? "40" : "0"))
            return try session.value("SELECT tier FROM reactions.entity_status(7)") != nil
        }
        #expect(try session.value("SELECT reactions.total(7)") == (hasRows ? "40" : "0"))
    }

    @Test("a sample is full though the newest events are one user's")
    func sampleBehindOneUser() async throws {
        let site = try await CountingSite.make()
        let session = site.session
        try session.execute("UPDATE reactions.entity_type SET viral_threshold = 1200, regular_threshold = 1000")
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try session.execute("SET reactions.max_keys_per_transaction = 10000")
        try session.execute("SELECT reactions.react(u, 5, 'Like') FROM generate_series(1, 1500) u")
        for _ in 1...3 {
            try session.execute(
                """
                SELECT CASE WHEN n % 2 = 1 THEN reactions.react(2000, 5, 'Cry') ELSE reactions.unreact(2000, 5, 'Cry') END
                FROM generate_series(1, 1000) n
                """)
        }
        try await site.stack.drained(session)
        try await eventually("the post is in Redis") {
            #expect(try session.value("SELECT reactions.total(5)") == "1500")
            return try session.value("SELECT tier FROM reactions.entity_status(5)") == "viral"
        }
        let redis = try site.stack.redis.connect()
        #expect(try redis.command("STRLEN", site.key(5, "sample")) == .integer(29 + 1_000 * 20))
    }

    @Test("the rate of its reactions makes a post viral early")
    func foretold() async throws {
        let site = try await CountingSite.make()
        let session = site.session
        try session.execute("UPDATE reactions.entity_type SET viral_threshold = 100000")
        let agent = try site.stack.startAgent(["--set", "entities.viral_horizon=10h"])
        defer { agent.stop(15) }
        try await site.warm()
        try session.execute("SELECT reactions.react(u, 5, 'Like') FROM generate_series(1, 500) u")
        try await site.stack.drained(session)
        #expect(
            try session.query("SELECT tier, tier_reason FROM reactions.entity_status(5)")[0] == ["viral", "rate"])
        #expect(try session.value("SELECT reactions.total(5)") == "500")
        #expect(site.stack.agentLog().contains("entity is viral"))
    }

    @Test("with ClickHouse away nothing is put into Redis, and with it back what was missed")
    func withoutClickHouse() async throws {
        let clickHouse = try await ClickHouseServer.start()
        let site = try await CountingSite.make(clickHouse: clickHouse)
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        for _ in 1...5 { try site.session.execute(CountingSite.change) }
        try await site.expectTruth()
        try site.stack.redis.connect().command("UNLINK", site.key(4, "reaction_counts"))
        clickHouse.kill()
        #expect(throws: PostgresError.self) { try site.session.value("SELECT reactions.total(4)") }
        // What Redis has is still told.
        #expect(try site.session.value("SELECT reactions.total(5)") != nil)
        try site.session.execute(CountingSite.change)
        try await clickHouse.restart()
        try await site.expectTruth()
    }

    @Test("a cluster counts as a server does, through the loss of a server's contents")
    func cluster() async throws {
        let cluster = try await RedisCluster.start()
        let site = try await CountingSite.make(redis: cluster)
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        try await site.warm()
        try await site.underLoad {
            func batches() async throws {
                let finished = "SELECT count(*) FROM reactions._batch WHERE finished_at IS NOT NULL"
                let before = Int(try site.session.value(finished) ?? "") ?? 0
                try await eventually("batches are counted") {
                    Int(try site.session.value(finished) ?? "") ?? 0 > before + 3
                }
            }
            try await batches()
            try cluster.servers[1].connect().command("FLUSHALL")
            try await batches()
        }
        try await site.stack.drained(site.session)
        try await site.warm()
        #expect(try site.served() == site.truth)
    }

    @Test("counts whose slot moves there and back do not bring back what they missed")
    func movedThereAndBack() async throws {
        let cluster = try await RedisCluster.start()
        let site = try await CountingSite.make(redis: cluster)
        let agent = try site.stack.startAgent()
        defer { agent.stop(15) }
        let counts = "\(site.stack.prefix)image:{3}:3:reaction_counts"
        // Read once, it is wanted once: nothing builds it anew later.
        #expect(try site.session.value("SELECT reactions.total(3)") == "0")
        try await eventually("the entity is in Redis") { try cluster.command("HGET", counts, "total") == .string("0") }
        let slot = try cluster.slot(of: counts)
        let source = try cluster.owner(of: counts)
        let target = try #require(cluster.servers.first { $0 !== source })
        try cluster.move(slot, from: source, to: target)
        // Nobody reads it there.
        try site.session.execute("SELECT reactions.react(1000, 3, 'Like')")
        try await site.stack.drained(site.session)
        #expect(try cluster.command("EXISTS", counts) == .integer(0))
        try cluster.move(slot, from: target, to: source)
        #expect(try site.session.value("SELECT reactions.total(3)") == "1")
        try await site.warm()
        #expect(try site.served() == site.truth)
    }

    /// The interleaving is forced: while the table of batches is locked nothing is formed or confirmed, and what is confirmed can be read.
    @Test("what is read between a TRUNCATE and its confirmation is the table's, and outlives it nowhere")
    func readBeforeATruncateIsConfirmed() async throws {
        let stack = try await Stack.make()
        let session = try stack.connect()
        try stack.makePrismaTable(session, phase: "switch_reads")
        let agent = try stack.startAgent()
        defer { agent.stop(15) }
        let redis = try stack.redis.connect()
        /// Has the entity missed until Redis has it, under the epoch of now.
        func installed() async throws -> String? {
            try await eventually("the entity is in Redis") {
                _ = try session.value("SELECT reactions.total(7)")
                return try session.value("SELECT tier FROM reactions.entity_status(7)") != nil
            }
            return try redis.command("HGET", "\(stack.prefix)image:7:7:reaction_counts", "total").string
        }
        try session.execute(
            "INSERT INTO \"ImageReaction\" (\"imageId\", \"userId\", reaction) SELECT 7, u, 'Like' FROM generate_series(1, 50) u"
        )
        try await stack.drained(session)
        #expect(try await installed() == "50")
        let holder = try stack.connect()
        try holder.execute("BEGIN; LOCK TABLE reactions._batch IN SHARE MODE")
        try session.execute("TRUNCATE \"ImageReaction\"")
        for _ in 1...20 { #expect(try session.value("SELECT reactions.total(7)") == "0") }
        try holder.execute("COMMIT")
        try await eventually("it is brought over again") {
            #expect(try session.value("SELECT reactions.total(7)") == "0")
            return try session.value("SELECT backfilled FROM reactions.status()") == "t"
        }
        try session.execute("INSERT INTO \"ImageReaction\" (\"imageId\", \"userId\", reaction) VALUES (7, 1, 'Heart')")
        try await stack.drained(session)
        #expect(try session.value("SELECT reactions.total(7)") == "1")
        #expect(try await installed() == "1")
    }
}
