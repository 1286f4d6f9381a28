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
}
