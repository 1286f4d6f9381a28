import Pipeline
import PostgresSource
import ReactionModel
import RedisStore
import TestSupport
import Testing

@testable import ReactionAgent

/// Between the command's look at an entity and its repair an agent counts, installs, promotes or drops it. docs/races.md has the rules.
@Suite("Races of a reconciliation", .serialized) struct ReconcileRaceTests {
    /// Entity 1, which an agent has built, and the command's look at it.
    private struct Race {
        let site: ReconcileSite
        let agent: ServerProcess
        let scan: CacheScan
        let entity: EntityAddress
        let type: EntityType

        static func make() async throws -> Race {
            let site = try await ReconcileSite.make()
            try site.session.execute(
                """
                SET reactions.max_keys_per_transaction = 10000;
                UPDATE reactions.entity_type SET viral_threshold = 50, regular_threshold = 40
                """)
            let agent = try site.stack.startAgent(
                Stack.withoutMatches + [
                    "--set", "reconcile.interval=0s", "--set", "entities.viral_dwell=0s", "--set",
                    "entities.viral_horizon=0s",
                ])
            try site.like(1, users: 10)
            let (scan, type) = try await site.scan()
            let race = Race(
                site: site, agent: agent, scan: scan, entity: EntityAddress(typeID: type.typeID, id: 1), type: type)
            try await race.built(.regular)
            return race
        }

        func look() async throws -> EntityLook {
            try #require(try await scan.look(at: [entity])[entity])
        }

        func condition() async throws -> EntityCondition { EntityCondition(try await look(), of: type) }

        /// Has the entity missed until the agent has built it, or changed its tier.
        func built(_ tier: EntityTier) async throws {
            try await site.stack.drained(site.session)
            try await eventually(within: .seconds(60), "the entity is in its tier, whole") {
                _ = try site.session.value("SELECT reactions.total(1, 'Post')")
                return try await condition() == .kept(tier)
            }
        }

        /// At the end Redis has what was written, and a reconciliation finds nothing.
        func expect(users: Int, _ tier: EntityTier, sourceLocation: SourceLocation = #_sourceLocation) async throws {
            try await built(tier)
            #expect(
                try site.session.value("SELECT reactions.total(1, 'Post')") == "\(users)",
                sourceLocation: sourceLocation)
            let run = await site.reconcile("--deep")
            #expect(
                run.hasEndedWell && run.output.contains(" 0 faults"), "\(run.output)", sourceLocation: sourceLocation)
            agent.stop(15)
        }
    }

    @Test("what is counted between look and repair is as wrong as before, is dropped, and built with it")
    func counted() async throws {
        let race = try await Race.make()
        try race.site.redis("HINCRBY", race.site.key(1), "Like", "1")
        try race.site.redis("HINCRBY", race.site.key(1), "total", "1")
        let look = try await race.look()
        try race.site.like(1, users: 12)
        try await race.site.stack.drained(race.site.session)
        #expect(try await race.scan.repair(race.entity, look, .rebuild))
        try await race.expect(users: 12, .regular)
    }

    @Test("what is built between look and repair is another one, and stays")
    func installed() async throws {
        let race = try await Race.make()
        let look = try await race.look()
        try race.site.redis("UNLINK", race.site.key(1))
        try await race.built(.regular)
        #expect(try await !race.scan.repair(race.entity, look, .rebuild))
        #expect(try await race.scan.keep([(race.entity, look)], seconds: 99) == 0)
        #expect(try await race.condition() == .kept(.regular))
        try await race.expect(users: 10, .regular)
    }

    @Test("a sample beside a regular entity, which is viral by the time of its repair, is its own")
    func promoted() async throws {
        let race = try await Race.make()
        try race.site.redis("SET", race.site.key(1, ":sample"), "planted")
        let look = try await race.look()
        #expect(EntityCondition(look, of: race.type) == .faulty(.leftover, "sample"))
        try race.site.like(1, users: 60)
        try await race.built(.viral)
        #expect(try await !race.scan.repair(race.entity, look, .drop))
        #expect(try await race.condition() == .kept(.viral))
        try await race.expect(users: 60, .viral)
    }

    @Test("a list beside a viral entity, which is regular by the time of its repair, is its own")
    func demoted() async throws {
        let race = try await Race.make()
        try race.site.like(1, users: 60)
        try await race.built(.viral)
        try race.site.redis("SET", race.site.key(1, ":reactions"), "planted")
        let look = try await race.look()
        #expect(EntityCondition(look, of: race.type) == .faulty(.leftover, "reactions"))
        try race.site.session.execute(
            "SELECT reactions.unreact(g, 1, 'Like', 'Post') FROM generate_series(31, 60) g")
        try await race.built(.regular)
        #expect(try await !race.scan.repair(race.entity, look, .drop))
        #expect(try await race.condition() == .kept(.regular))
        try await race.expect(users: 30, .regular)
    }

    @Test("what has gone between look and repair is neither dropped nor given time, and comes back when it is missed")
    func gone() async throws {
        let race = try await Race.make()
        let look = try await race.look()
        // As by its time to live; then as an eviction leaves it.
        for key in [race.site.key(1), race.site.key(1, ":reactions")] { try race.site.redis("PEXPIRE", key, "0") }
        #expect(try await race.condition() == .absent)
        #expect(try await !race.scan.repair(race.entity, look, .rebuild))
        #expect(try await race.scan.keep([(race.entity, look)], seconds: 99) == 0)
        try await race.built(.regular)
        try race.site.redis("UNLINK", race.site.key(1))
        let left = try await race.look()
        #expect(EntityCondition(left, of: race.type) == .faulty(.noCounts, "reactions"))
        try await race.built(.regular)
        #expect(try await !race.scan.repair(race.entity, left, .drop))
        try await race.expect(users: 10, .regular)
    }

    @Test("of two that have both seen a fault one repairs it")
    func two() async throws {
        let race = try await Race.make()
        try race.site.redis("HINCRBY", race.site.key(1), "Like", "1")
        let first = try await race.look()
        let second = try await race.look()
        #expect(try await race.scan.repair(race.entity, first, .rebuild))
        #expect(try await !race.scan.repair(race.entity, second, .rebuild))
        try await race.built(.regular)
        #expect(try await !race.scan.repair(race.entity, second, .rebuild))
        try await race.expect(users: 10, .regular)
    }

    @Test("one that dies between drop and wish leaves an entity that is built when it is missed")
    func dies() async throws {
        let race = try await Race.make()
        for suffix in KeySpace.entitySuffixes { try race.site.redis("UNLINK", race.site.key(1, suffix)) }
        #expect(try await race.condition() == .absent)
        try await race.expect(users: 10, .regular)
    }

    @Test("an epoch that is raised between look and repair makes the entity absent, and another one stays")
    func epoch() async throws {
        let race = try await Race.make()
        let look = try await race.look()
        try race.site.session.execute("SELECT reactions.raise_epoch('Post')")
        try await eventually(within: .seconds(60), "the entity is built under the new epoch") {
            _ = try race.site.session.value("SELECT reactions.total(1, 'Post')")
            return try race.site.session.value("SELECT tier FROM reactions.entity_status(1, 'Post')") == "regular"
        }
        #expect(try await !race.scan.repair(race.entity, look, .rebuild))
        // The command's own catalog is the old one.
        #expect(try await race.condition() == .stale)
        #expect(try race.site.session.value("SELECT reactions.total(1, 'Post')") == "10")
        let run = await race.site.reconcile("--deep")
        #expect(run.hasEndedWell && run.output.contains(" 0 faults"), "\(run.output)")
        race.agent.stop(15)
    }
}
