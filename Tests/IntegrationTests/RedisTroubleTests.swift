import Synchronization
import TestSupport
import Testing

/// Slots that move, masters that fail and return, while reactions are written and read. An answer is, kind by kind, a value that was
/// committed, soon the last one, or a clear error; and when everything has arrived, every answer is the last one committed.
@Suite(.serialized) struct RedisTrouble {
    private static let users = 1...24

    private struct Site {
        var stack: Stack
        var session: PostgresConnection
        var agent: ServerProcess
        var workers: [Worker]
    }

    private func site(on redis: any RedisDeployment, _ arguments: [String] = []) async throws -> Site {
        let stack = try await Stack.make(redis: redis)
        let session = try stack.connect()
        try session.execute("SELECT reactions.add_entity_type('Image')")
        let workers = try (0..<3).map { number in
            Worker(session: try stack.connect(), users: Self.users.filter { $0 % 3 == number })
        }
        return Site(stack: stack, session: session, agent: try stack.startAgent(arguments), workers: workers)
    }

    /// Lets the workers write and read while `body` makes trouble, and then compares every reaction.
    private func work(_ site: Site, while body: () async throws -> Void) async throws {
        defer { site.agent.stop(15) }
        async let ended: Void = withTaskGroup(of: Void.self) { group in
            for worker in site.workers { group.addTask { await onThread { worker.work() } } }
        }
        do {
            try await eventually("everybody works") { site.workers.allSatisfy { $0.rounds > 20 } }
            try await body()
            let before = site.workers.map(\.rounds)
            try await eventually("everybody still works") {
                zip(site.workers, before).allSatisfy { $0.rounds > $1 + 20 }
            }
        } catch {
            let rounds = site.workers.map { "\($0.rounds) rounds, \($0.unavailable) unavailable, wrong \($0.wrong)" }
            site.workers.forEach { $0.stop() }
            await ended
            throw TestSupportError("\(error): \(rounds); \(site.stack.agentLog().suffix(3_000))")
        }
        site.workers.forEach { $0.stop() }
        await ended
        for worker in site.workers { #expect(worker.wrong == []) }
        try await site.stack.drained(site.session)
        let fresh = try site.stack.connect()
        for worker in site.workers {
            for (reaction, flags) in worker.expected {
                let read = "SELECT reactions.flags(\(reaction.user), \(reaction.entity))"
                #expect(try fresh.value(read) == "\(flags)", "\(reaction)")
                #expect(try worker.session.value(read) == "\(flags)", "\(reaction), in a session that was there")
            }
        }
        let expected = site.workers.flatMap(\.expected)
        for attempt in 1...2 {
            try await eventually(within: .seconds(60), "counts are those of the reactions, attempt \(attempt)") {
                try (1...4).allSatisfy { entity in
                    let flags = expected.filter { $0.key.entity == entity }.map(\.value)
                    let counts = (0..<4).map { kind in flags.filter { $0 & 1 << kind != 0 }.count }
                    return try fresh.query("SELECT count FROM reactions.counts('{\(entity)}')").map { $0[0] }
                        == counts.map { "\($0)" }
                        && fresh.value("SELECT count(*) FROM reactions.reactors(\(entity))")
                            == "\(flags.filter { $0 != 0 }.count)"
                }
            }
            // By what Redis has, once the agent has put it there.
            try await eventually("the entities are in Redis") {
                try fresh.value(
                    "SELECT bool_and((reactions.entity_status(e)).tier IS NOT NULL) FROM generate_series(1, 4) e")
                    == "t"
            }
        }
    }

    @Test("slots that move there and back under load cost neither an error nor a change")
    func movingSlots() async throws {
        let cluster = try await RedisCluster.start()
        let site = try await site(on: cluster)
        try await work(site) {
            for round in 0..<24 {
                let key = site.stack.prefix + "reactions:\(1 + round * 7 % 24)"
                let slot = try cluster.slot(of: key)
                let source = try cluster.owner(of: key)
                let others = cluster.servers.filter { $0 !== source }
                let target = others[round % 2]
                try cluster.beginMove(of: slot, from: source, to: target)
                let before = site.workers.map(\.rounds)
                // While a slot is on its way what is written there is the agent's to apply.
                try await eventually(within: .seconds(60), "everybody has been at it") {
                    zip(site.workers, before).allSatisfy { $0.rounds > $1 + 3 }
                }
                try cluster.moveKeys(of: slot, from: source, to: target)
                try await eventually(within: .seconds(60), "everybody has been at it again") {
                    zip(site.workers, before).allSatisfy { $0.rounds > $1 + 6 }
                }
                // What came back to the source in between, by a session that does not know, goes along.
                try cluster.moveKeys(of: slot, from: source, to: target)
                try cluster.finishMove(of: slot, to: target)
                // Every third one goes back at once, with what its map has missed.
                if round % 3 == 0 { try cluster.move(slot, from: target, to: source) }
            }
        }
        for worker in site.workers { #expect(worker.unavailable == 0) }
    }

    @Test("a master that is down takes its own users along and no others, and comes back without what it missed")
    func aMasterDown() async throws {
        let cluster = try await RedisCluster.start()
        let site = try await site(on: cluster, ["--set", "redis.give_up=1s"])
        let (stack, session) = (site.stack, site.session)
        let elsewhere = try Self.users.filter { user in
            try cluster.owner(of: stack.prefix + "reactions:\(user)") !== cluster.servers[0]
        }
        try await work(site) {
            cluster.servers[0].kill()
            let before = site.workers.map(\.rounds)
            try await eventually("everybody goes on") {
                zip(site.workers, before).allSatisfy { $0.rounds > $1 + 100 }
            }
            for user in elsewhere { #expect(try session.value("SELECT reactions.flags(\(user), 1)") != nil) }
            try await eventually("the agent gives the server up") {
                try session.value("SELECT epoch > 0 FROM reactions.entity_type") == "t"
            }
            try await cluster.servers[0].restart()
            try await cluster.whole()
        }
    }

    @Test("a replica that has stood still is promoted without what it missed, and no reaction is lost")
    func aSlowReplica() async throws {
        let deployment = try await RedisSentinels.start(downAfter: .seconds(2))
        let site = try await site(on: deployment)
        try await work(site) {
            let master = try deployment.master()
            let replica = try #require(deployment.servers.first { $0 !== master })
            replica.pause()
            let before = site.workers.map(\.rounds)
            try await eventually("everybody goes on") {
                zip(site.workers, before).allSatisfy { $0.rounds > $1 + 20 }
            }
            master.kill()
            replica.resume()
            try await deployment.promoted(replica)
        }
    }

    @Test("a failover and one back, by sentinels and under load, lose no reaction")
    func failovers() async throws {
        let deployment = try await RedisSentinels.start(downAfter: .seconds(2))
        let site = try await site(on: deployment)
        try await work(site) {
            let old = try deployment.master()
            let other = try #require(deployment.servers.first { $0 !== old })
            old.kill()
            try await deployment.promoted(other)
            try await old.restart()
            try await deployment.watched()
            try await deployment.failOver()
            #expect(try deployment.master() === old)
        }
    }
}

/// Writes reactions of users of its own, reads them, and knows what they are.
private final class Worker: Sendable {
    struct Reaction: Hashable, Sendable { var user, entity: Int }

    private struct State {
        var rounds = 0
        var unavailable = 0
        var wrong: [String] = []
        var past: [Reaction: [Int]] = [:]
        var isStopping = false
    }

    let session: PostgresConnection
    private let users: [Int]
    private let state = Mutex(State())

    init(session: PostgresConnection, users: [Int]) {
        self.session = session
        self.users = users
    }

    var rounds: Int { state.withLock { $0.rounds } }
    /// Reads that were answered with an error as when Redis is down.
    var unavailable: Int { state.withLock { $0.unavailable } }
    var wrong: [String] { state.withLock { $0.wrong } }
    var expected: [Reaction: Int] { state.withLock { $0.past.compactMapValues(\.last) } }

    func stop() { state.withLock { $0.isStopping = true } }

    private func read(_ reaction: Reaction) throws -> Int {
        let read = try session.value("SELECT reactions.flags(\(reaction.user), \(reaction.entity))")
        let flags = read.flatMap { Int($0) } ?? -1
        state.withLock { state in
            let past = state.past[reaction, default: []]
            let isPossible =
                flags >= 0
                && (0..<4).allSatisfy { kind in
                    past.contains { ($0 ^ flags) & 1 << kind == 0 }
                }
            if !isPossible { state.wrong.append("\(reaction) has flags \(flags)") }
        }
        return flags
    }

    func work() {
        while !state.withLock({ $0.isStopping }) {
            let reaction = Reaction(user: users.randomElement() ?? 0, entity: Int.random(in: 1...4))
            let flags = Int.random(in: 0...15)
            do {
                try session.execute("SELECT reactions.set_flags(\(reaction.user), \(reaction.entity), \(flags))")
                state.withLock { $0.past[reaction, default: [0]].append(flags) }
                // What Redis did not take at the commit the agent brings.
                let start = ContinuousClock.now
                while try read(reaction) != flags {
                    guard ContinuousClock.now - start < .seconds(120) else {
                        state.withLock { $0.wrong.append("\(reaction) does not get flags \(flags)") }
                        break
                    }
                }
            } catch let error as PostgresError where error.sqlstate == "08006" {
                state.withLock { $0.unavailable += 1 }
            } catch {
                state.withLock { $0.wrong.append("\(error)") }
            }
            state.withLock { $0.rounds += 1 }
        }
    }
}
