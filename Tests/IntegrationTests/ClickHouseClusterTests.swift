import TestSupport
import Testing

/// The whole way over two shards of two replicas.
@Suite("A cluster of ClickHouse servers", .serialized) struct ClickHouseClusterTests {
    @Test("a table that is written to comes into a cluster whose servers go and come back")
    func whileServersDie() async throws {
        let cluster = try await ClickHouseCluster.start()
        let site = try BackfillSite.make(try await Stack.make(clickHouse: cluster), rows: 10_000)
        try site.attach()
        let agent = try site.stack.startAgent([
            "--set", "backfill.rows_per_second=4000", "--set", "mirror.longest_backoff=1s",
        ])
        defer { agent.stop(15) }
        for seed in 0..<10 { try site.write(seed: seed) }
        // A replica, in the middle of the backfill and of the mirror: nothing has a quorum on its shard.
        cluster.shards[1][1].kill()
        for seed in 10..<20 { try site.write(seed: seed) }
        try await cluster.shards[1][1].restart()
        // A shard.
        for server in cluster.shards[1] { server.kill() }
        for seed in 20..<30 { try site.write(seed: seed) }
        for server in cluster.shards[1] { try await server.restart() }
        try await site.sealed()
        for seed in 30..<40 { try site.write(seed: seed) }
        try await site.expectAgreement()

        // A type of which ClickHouse is the truth, behind an empty cache.
        let session = try site.stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Song')")
        for entity in 1...30 {
            try session.execute("SELECT reactions.react(\(entity % 7), \(entity), 'Heart', 'Song')")
        }
        try await site.stack.drained(session)
        try session.execute("SELECT reactions.raise_epoch('Song')")
        for user in 0..<7 {
            let expected = (1...30).filter { $0 % 7 == user }.map { [String($0)] }
            let read = try session.query(
                "SELECT entity_id FROM reactions.by_user(\(user), 'Heart', 100, entity_type => 'Song') ORDER BY 1")
            #expect(read.map { $0.map { $0 ?? "" } } == expected)
        }
        // Half of an answer is none.
        for server in cluster.shards[1] { server.kill() }
        try session.execute("SELECT reactions.raise_epoch('Song')")
        let other = try site.stack.connect()
        #expect(throws: (any Error).self) {
            for user in 0..<7 { _ = try other.query("SELECT reactions.flags(\(user), 7, 'Song')") }
        }
    }

    @Test("a reconciliation asks all shards, and finds, left by a dry run or repaired, what one server's would")
    func reconciled() async throws {
        let cluster = try await ClickHouseCluster.shared.value
        let site = try await ReconcileSite.make(clickHouse: cluster)
        let agent = try site.stack.startAgent(ReconcileSite.arguments)
        defer { agent.stop(15) }
        try await site.fill()
        let right = await site.reconcile("--deep")
        #expect(try right.hasEndedWell && site.findings() == [], "\(right.output)")
        let planted = try site.plant()
        let dry = await site.reconcile("--deep", "--dry-run")
        #expect(try !dry.hasEndedWell && site.findings() == planted, "\(dry.output)")
        let run = await site.reconcile("--deep")
        #expect(try run.hasEndedWell && site.findings("is_repaired") == planted, "\(run.output)")
        try await site.expectTruth()
        let again = await site.reconcile("--deep")
        #expect(try again.hasEndedWell && site.findings() == [], "\(again.output)")
    }

    /// One replica of each shard carries out no deletion for a while.
    @Test("a user who is forgotten is erased when every replica of every shard has carried it out")
    func erased() async throws {
        let cluster = try await ClickHouseCluster.start(sessionTimeout: .seconds(120))
        let stack = try await Stack.make(clickHouse: cluster)
        let session = try stack.connect()
        try session.execute(
            """
            SELECT reactions.add_entity_type('Image');
            SELECT reactions.react(u, e, 'Like') FROM generate_series(1, 5) u, generate_series(1, 20) e
            """)
        let agent = try stack.startAgent(Stack.withoutMatches + ["--set", "mirror.batch_retention=1s"])
        defer { agent.stop(15) }
        try await stack.drained(session)
        func rows(of user: Int, at server: ClickHouseServer) throws -> Int {
            try ["entityMetricEvents", "reactionsByEntity"].reduce(0) { sum, table in
                let found = try server.rows(
                    "SELECT count() FROM \(table)_local WHERE userId = \(user)", database: stack.clickHouseDatabase)
                return sum + (Int(found.first?.first ?? "") ?? -1_000_000)
            }
        }
        func areGone(from replica: Int) throws -> Bool {
            try cluster.shards.allSatisfy { try rows(of: 3, at: $0[replica]) == 0 }
        }
        func state() throws -> String? {
            try session.value("SELECT state FROM reactions.forgotten_user WHERE user_id = 3")
        }
        func tellSecondReplicas(_ what: String) throws {
            for shard in cluster.shards {
                for table in ["entityMetricEvents", "reactionsByEntity"] {
                    _ = try shard[1].query("SYSTEM \(what) MERGES \(stack.clickHouseDatabase).\(table)_local")
                }
            }
        }
        try await eventually(within: .seconds(60), "every replica has every row") {
            try (1...5).allSatisfy { user in
                try (0...1).map { replica in
                    try cluster.shards.reduce(0) { try $0 + rows(of: user, at: $1[replica]) }
                } == [40, 40]
            }
        }

        try tellSecondReplicas("STOP")
        try session.execute("CALL reactions.forget_user(3)")
        try await eventually(within: .seconds(180), "the first replicas have deleted the user") {
            try areGone(from: 0)
        }
        // The agent looks every second: three looks began after that.
        var looks = 0
        var last: String?
        try await eventually(within: .seconds(60), "the agent has looked again") {
            let seen = try session.value(
                """
                SELECT query_start FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'reactiond erasure'
                  AND query_start > coalesce('\(last ?? "-infinity")'::timestamptz + interval '900 ms', '-infinity')
                """)
            if let seen {
                looks += 1
                last = seen
            }
            return looks > 4
        }
        #expect(try state() != "erased")
        #expect(try !areGone(from: 1))
        try tellSecondReplicas("START")
        try await eventually(within: .seconds(120), "the user is erased") { try state() == "erased" }
        #expect(try areGone(from: 0) && areGone(from: 1))
        #expect(try cluster.servers.reduce(0) { try $0 + rows(of: 5, at: $1) } == 80)
    }
}
