import CReactionsBoundary
import Glibc
import ReactionModel
import TestSupport
import Testing

extension Boundary {
    /// A cluster of three masters, whose slots move and of whom some are away.
    @Suite struct Cluster {
        private func code(_ code: rx_error_code) -> Int32 { Int32(bitPattern: code.rawValue) }

        private func caller(_ cluster: any RedisDeployment) -> Caller {
            var settings = Caller.Settings()
            settings.redis = cluster.url
            settings.prefix = uniqueName() + ":"
            return Caller(settings)
        }

        private func key(_ user: Int64, _ caller: Caller) -> String { caller.settings.prefix + "reactions:\(user)" }

        /// One user for each server: his map is there.
        private func users(_ cluster: RedisCluster, _ caller: Caller) throws -> [Int64] {
            try cluster.servers.map { server in
                try #require(try (1...200).first { try cluster.owner(of: key($0, caller)) === server })
            }
        }

        @Test func usersOfAllServersAreReadFilledAndAppliedTo() async throws {
            let cluster = try await RedisCluster.shared.value
            let caller = caller(cluster)
            caller.truth.table = [7: 5]
            let users = try users(cluster, caller)
            for user in users { #expect(try caller.read(user: user, [7, 8]).wanted == [nil]) }
            for user in users {
                #expect(
                    try caller.read(user: user, [7, 8]) == .init(flags: [7: 5, 8: 0], isComplete: true, wanted: []))
                #expect(try caller.read(user: user, nil) == .init(flags: [7: 5], isComplete: true, wanted: []))
            }
            for (server, user) in zip(cluster.servers, users) {
                #expect(try server.connect().command("EXISTS", key(user, caller)) == .integer(1))
            }
            _ = caller.takeCounters()
            #expect(caller.commit(users.enumerated().map { event(8, 20 + Int64($0), set: 2, user: $1) }) == 3)
            #expect(caller.takeCounters().redis_connects == 0)
            for user in users { #expect(try caller.read(user: user, [8]).flags == [8: 2]) }
        }

        @Test func aNewSessionConnectsForWhatItCommits() async throws {
            let cluster = try await RedisCluster.shared.value
            let caller = caller(cluster)
            let users = try users(cluster, caller)
            for user in users { _ = try caller.read(user: user, [7]) }
            rx_disconnect()
            #expect(caller.prepare(users.map { event(7, 20, set: 4, user: $0) }) == 3)
            try caller.open()
            #expect(caller.commit([]) == 3)
            for user in users { #expect(try caller.read(user: user, [7]).flags == [7: 4]) }
        }

        @Test func entityKeysHaveTheShardAsTheirTag() async throws {
            let cluster = try await RedisCluster.shared.value
            let caller = caller(cluster)
            let prefix = caller.settings.prefix
            _ = try caller.read([7])
            for suffix in ["reaction_counts", "total_reactions", "viral", "reactions", "sample"] {
                try cluster.command("SET", "\(prefix)post:{93}:-7:\(suffix)", "x")
            }
            try caller.invalidate(user: 1, entity: -7)
            #expect(try cluster.keys(prefix + "*") == [])
        }

        @Test func aMapThatHasMovedIsAbsentAndFilledWhereItIs() async throws {
            let cluster = try await RedisCluster.start()
            let caller = caller(cluster)
            caller.truth.table = [7: 1]
            _ = try caller.read([7])
            let slot = try cluster.slot(of: key(1, caller))
            let source = try cluster.owner(of: key(1, caller))
            let target = try #require(cluster.servers.first { $0 !== source })
            try cluster.move(slot, from: source, to: target)
            caller.truth.table = [7: 2]
            // The session thinks that the slot is where it was. One read finds the map, sees that it is not to be believed, and fills it.
            #expect(try caller.read([7]) == .init(flags: [7: 2], isComplete: true, wanted: [nil]))
            #expect(try caller.read([7]).wanted == [])
            #expect(caller.commit([event(7, 20, set: 4)]) == 1)
            #expect(try caller.read([7]).flags == [7: 6])
        }

        @Test func aMapThatMovesBackDoesNotBringBackWhatItMissed() async throws {
            let cluster = try await RedisCluster.start()
            let caller = caller(cluster)
            caller.truth.table = [7: 1]
            _ = try caller.read([7])
            let slot = try cluster.slot(of: key(1, caller))
            let source = try cluster.owner(of: key(1, caller))
            let target = try #require(cluster.servers.first { $0 !== source })
            try cluster.move(slot, from: source, to: target)
            // The commit does not know yet that the slot has moved; the next one does.
            #expect(caller.commit([event(7, 20, clear: 1)]) == 1)
            #expect(try cluster.command("EXISTS", key(1, caller)) == .integer(1))
            #expect(caller.prepare([event(7, 20, clear: 1)]) == 1)
            try caller.open()
            #expect(caller.commit([]) == 1)
            #expect(try cluster.command("EXISTS", key(1, caller)) == .integer(0))
            try cluster.move(slot, from: target, to: source)
            caller.truth.table = [:]
            #expect(try caller.read([7]).flags == [7: 0])
        }

        /// While a slot is on its way, keys that are still there are served there, and all others where it goes.
        @Test func aSlotOnItsWayIsServedFromBothSides() async throws {
            let cluster = try await RedisCluster.start()
            let caller = caller(cluster)
            caller.settings.prefix = "{\(uniqueName())}:"
            // A prefix with a brace is refused, since it would be the hash tag of everything.
            #expect(throws: Caller.Failure.self) { try caller.read([7]) }
            caller.settings.prefix = uniqueName() + ":"
            caller.truth.table = [7: 1]
            let slot = try cluster.slot(of: key(1, caller))
            let source = try cluster.owner(of: key(1, caller))
            let target = try #require(cluster.servers.first { $0 !== source })
            _ = try caller.read([7])
            try cluster.beginMove(of: slot, from: source, to: target)
            // Still where it was.
            #expect(try caller.read([7]).wanted == [])
            #expect(caller.commit([event(7, 20, set: 2)]) == 1)
            #expect(try caller.read([7]) == .init(flags: [7: 3], isComplete: true, wanted: []))
            // Gone over, and of another server's stamp.
            try cluster.moveKeys(of: slot, from: source, to: target)
            caller.truth.table = [7: 3]
            #expect(try caller.read([7]) == .init(flags: [7: 3], isComplete: true, wanted: [nil]))
            #expect(try caller.read([7]).wanted == [])
            #expect(try target.connect().command("CLUSTER", "COUNTKEYSINSLOT", "\(slot)") == .integer(1))
            #expect(try source.connect().command("CLUSTER", "COUNTKEYSINSLOT", "\(slot)") == .integer(0))
            // A commit is for who has the slot, who says ASK: then it is the agent's. The map is right as soon as it applies.
            #expect(caller.commit([event(7, 21, set: 8)]) == 1)
            try cluster.finishMove(of: slot, to: target)
            #expect(try caller.read([7]).wanted == [])
        }

        @Test func scriptsForgottenByOneServerAreLoadedThere() async throws {
            let cluster = try await RedisCluster.start()
            let caller = caller(cluster)
            caller.truth.table = [7: 1]
            let users = try users(cluster, caller)
            for user in users { _ = try caller.read(user: user, [7]) }
            try cluster.servers[1].connect().command("SCRIPT", "FLUSH")
            for user in users { try cluster.command("UNLINK", key(user, caller)) }
            for user in users { #expect(try caller.read(user: user, [7]).wanted == [nil]) }
            for user in users { #expect(try caller.read(user: user, [7]).wanted == []) }
        }

        @Test func aServerThatIsDownTakesItsUsersAlone() async throws {
            let cluster = try await RedisCluster.start()
            let caller = caller(cluster)
            caller.truth.table = [7: 1]
            let users = try users(cluster, caller)
            for user in users { _ = try caller.read(user: user, [7]) }
            cluster.servers[0].kill()
            for _ in 0..<5 {
                let failure = try #require(throws: Caller.Failure.self) { try caller.read(user: users[0], [7]) }
                #expect(failure.code == code(RX_ERROR_REDIS_UNREACHABLE))
                for user in users.dropFirst() { #expect(try caller.read(user: user, [7]).wanted == []) }
            }
            #expect(caller.prepare(users.map { event(7, 20, set: 2, user: $0) }) == 3)
            try? caller.open()
            #expect(caller.commit([]) == 3)
            for user in users.dropFirst() { #expect(try caller.read(user: user, [7]).flags == [7: 3]) }
            let probe = caller.probe()
            #expect(probe["redis_reachable"]?.isOK == false)
            #expect(probe["redis_maxmemory_policy"]?.isOK == true)

            try await cluster.servers[0].restart()
            try await cluster.whole()
            try await eventually("the server is asked again") {
                (try? caller.read(user: users[0], [7]).flags) == [7: 1]
            }
            #expect(caller.probe()["redis_reachable"]?.detail.hasSuffix("a cluster of 3 masters") == true)
        }

        @Test func aReplicaThatTakesOverIsFoundAndStartsCold() async throws {
            let cluster = try await RedisCluster.start(nodeTimeout: .seconds(2))
            let caller = caller(cluster)
            caller.settings.connectTimeout = 2_000
            caller.settings.timeout = 2_000
            caller.truth.table = [7: 1]
            _ = try caller.read([7])
            let master = try cluster.owner(of: key(1, caller))
            let replica = try await cluster.addReplica(of: master)
            // A first replica begins a history, which the session notices within a second.
            try await eventually("the map is filled again") { try caller.read([7]).wanted == [nil] }
            let redis = try replica.connect()
            try redis.command("READONLY")
            try await eventually("the replica has the map") {
                try redis.command("HGET", key(1, caller), "7") == .string("1")
            }
            master.kill()
            caller.truth.table = [7: 2]
            try await eventually("the replica is asked") {
                (try? caller.read([7]).flags) == [7: 2]
            }
            #expect(try caller.read([7]).wanted == [])
            #expect(caller.commit([event(7, 20, set: 4)]) == 1)
            #expect(try caller.read([7]).flags == [7: 6])
        }

        @Test func aClusterHasOneDatabase() async throws {
            let cluster = try await RedisCluster.shared.value
            let caller = caller(cluster)
            caller.settings.redis = "redis://127.0.0.1:\(cluster.servers[0].port)/2"
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.code == code(RX_ERROR_NOT_CONFIGURED))
            #expect(failure.detail == "A Redis Cluster has one database, number 0.")
        }

        @Test func serversThatAreNoClusterAreNotTakenForOne() async throws {
            let server = try await RedisServer.shared.value
            let caller = caller(server)
            caller.settings.redis = "redis://127.0.0.1:\(server.port),127.0.0.1:1"
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.code == code(RX_ERROR_NOT_CONFIGURED))
        }

        @Test func aSeedThatIsDownIsPassedOver() async throws {
            let cluster = try await RedisCluster.shared.value
            let caller = caller(cluster)
            caller.settings.redis = "redis://127.0.0.1:1,localhost:\(cluster.servers[2].port)"
            for user in try users(cluster, caller) { #expect(try caller.read(user: user, [7]).wanted == [nil]) }
        }

        @Test func passwordsAndRights() async throws {
            let cluster = try await RedisCluster.start(
                configuration: ["user app on >right ~* +@all", "user weak on >right ~* +@all -@scripting"],
                password: "right")
            let caller = caller(cluster)
            func failure() -> Int32? {
                do {
                    _ = try caller.read([7])
                    return nil
                } catch { return (error as? Caller.Failure)?.code }
            }
            #expect(failure() == code(RX_ERROR_REDIS_REFUSED))
            caller.settings.redisPassword = "wrong"
            #expect(failure() == code(RX_ERROR_REDIS_REFUSED))
            caller.settings.redisPassword = "right"
            #expect(failure() == nil)
            caller.settings.redisUser = "weak"
            try cluster.command("UNLINK", key(1, caller))
            #expect(failure() == code(RX_ERROR_REDIS_REFUSED))
            caller.settings.redisUser = "app"
            #expect(failure() == nil)
        }

        /// Everything that a session says to a cluster, as a user who may do what the documentation says and nothing else.
        @Test func theDocumentedRightsAreEnough() async throws {
            let rules = try DocumentedACL.dataServers()
            let cluster = try await RedisCluster.start(
                configuration: ["user reactions on >password \(rules)"], password: "admin")
            let caller = caller(cluster)
            caller.settings.redisUser = "reactions"
            caller.settings.redisPassword = "password"
            caller.truth.table = [7: 1]
            for user in try users(cluster, caller) {
                #expect(try caller.read(user: user, [7]).wanted == [nil])
                #expect(caller.commit([event(7, 20, set: 2, user: user)]) == 1)
                #expect(try caller.read(user: user, nil).flags == [7: 3])
                try caller.invalidate(user: user, entity: 1)
            }
            // Who waits in vain for the agent does not wait again soon, in other tests either.
            caller.settings.fillWait = 0
            #expect(try caller.counts([1, 2, 3], table: { [$0, 0, 0, 0] }).wanted == [[1, 2, 3]])
            // Redis has let it pass; ClickHouse is not there.
            let failure = try #require(throws: Caller.Failure.self) { try caller.reactors(1, limit: 1) }
            #expect(failure.code == code(RX_ERROR_NOT_CONFIGURED))
            let probe = caller.probe()
            #expect(probe["redis_reachable"]?.isOK == true && probe["redis_maxmemory_policy"]?.isOK == true)
        }

        /// Entities of one shard, 1, 101, 201 and so on, are together, and each shard is somewhere.
        @Test func aPageOfCountsComesFromAllServers() async throws {
            let cluster = try await RedisCluster.start()
            let caller = caller(cluster)
            caller.settings.fillWait = 0
            let prefix = caller.settings.prefix
            func owner(_ entity: Int64) throws -> RedisServer {
                try cluster.owner(of: "\(prefix)post:{\(entity % 100)}:\(entity):reaction_counts")
            }
            for entity: Int64 in 1...100 {
                let redis = try owner(entity).connect()
                try Installer(redis: redis, prefix: prefix, isCluster: true)
                    .install(entity, counts: [entity, 0, 0, 1], users: 2, reactors: [reactor(5, entity, 1)])
            }
            _ = try caller.counts([1])
            let page = try caller.counts(Array(1...100))
            #expect(page.numbers == (1...100).map { [$0, 0, 0, 1] })
            #expect(page.wanted == [])
            #expect(try caller.reactors(7, limit: 1).reactors == [reactor(5, 7, 1)])
            _ = caller.takeCounters()
            _ = try caller.counts(Array(1...100))
            #expect(caller.takeCounters().redis_round_trips == 3)

            // A shard that moves is absent, with all that is of it; the others are not.
            let key = "\(prefix)post:{7}:7:reaction_counts"
            let source = try owner(7)
            let target = try #require(cluster.servers.first { $0 !== source })
            try cluster.move(try cluster.slot(of: key), from: source, to: target)
            let table: (Int64) -> [Int64] = { [$0 * 10, 0, 0, 0] }
            let moved = try caller.counts(Array(1...100), table: table)
            #expect(moved.wanted == [[7]])
            #expect(moved.numbers[6] == [70, 0, 0, 0])
            #expect(moved.numbers[7] == [8, 0, 0, 1])

            // Numbers of a server that is down are not known, and never 0.
            source.kill()
            let failure = try #require(throws: Caller.Failure.self) {
                try caller.counts(Array(1...100), table: table)
            }
            #expect(failure.code == code(RX_ERROR_REDIS_UNREACHABLE))
            let elsewhere = (1...100).first { (try? owner($0)) === target }
            #expect(try caller.counts([try #require(elsewhere)], table: table).wanted == [])
        }
    }
}
