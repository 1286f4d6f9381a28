import CReactionsBoundary
import TestSupport
import Testing

extension Boundary {
    /// A master and a replica, which sentinels watch.
    @Suite struct Sentinels {
        private func code(_ code: rx_error_code) -> Int32 { Int32(bitPattern: code.rawValue) }

        private func caller(_ deployment: any RedisDeployment) -> Caller {
            var settings = Caller.Settings()
            settings.redis = deployment.url
            settings.prefix = uniqueName() + ":"
            return Caller(settings)
        }

        @Test func theMasterIsAskedForAndItsSuccessor() async throws {
            let deployment = try await RedisSentinels.start(downAfter: .seconds(2))
            let caller = caller(deployment)
            let key = caller.settings.prefix + "reactions:1"
            caller.truth.table = [7: 1]
            #expect(try caller.read([7]).wanted == [nil])
            #expect(try caller.read([7]).wanted == [])
            try await eventually("the replica has the map") {
                try deployment.servers[1].connect().command("EXISTS", key) == .integer(1)
            }

            let old = try deployment.master()
            old.kill()
            try await deployment.promoted(deployment.servers[1])
            caller.truth.table = [7: 2]
            // The successor has the map; it is another process's, and so absent.
            try await eventually("the new master is found") { (try? caller.read([7]).flags) == [7: 2] }
            #expect(try caller.read([7]).wanted == [])
            #expect(caller.commit([event(7, 20, set: 4)]) == 1)
            #expect(try caller.read([7]).flags == [7: 6])
        }

        /// A write that Redis had acknowledged is lost in the failover, and then the old master comes back to office, as the process
        /// that it was.
        @Test func whatAFailoverLostIsNotBelievedWhenTheOldMasterIsBack() async throws {
            let old = try await RedisServer.start(configuration: ["repl-diskless-sync-delay 0"])
            let other = try await RedisServer.start(
                configuration: ["repl-diskless-sync-delay 0", "replicaof 127.0.0.1 \(old.port)"])
            try await eventually("the replica is in step") {
                try old.connect().command("INFO", "replication").string?.contains("state=online") == true
            }
            let caller = caller(old)
            let key = caller.settings.prefix + "reactions:1"
            caller.truth.table = [7: 1]
            _ = try caller.read([7])
            try await eventually("the replica has the map") {
                try other.connect().command("HGET", key, "7") == .string("1")
            }
            // The replica does not get what is applied next.
            try other.connect().command("REPLICAOF", "NO", "ONE")
            #expect(caller.commit([event(7, 20, clear: 1)]) == 1)
            #expect(try caller.read([7]).flags == [7: 0])
            caller.truth.table = [:]
            try old.connect().command("REPLICAOF", "127.0.0.1", "\(other.port)")
            try await eventually("the old master has taken over the other's data") {
                try old.connect().command("HGET", key, "7") == .string("1")
            }
            try old.connect().command("REPLICAOF", "NO", "ONE")
            try other.connect().command("REPLICAOF", "127.0.0.1", "\(old.port)")
            // The connection was open all the time, and knows within a second that the server has another history now.
            try await eventually("the map is absent") { (try? caller.read([7]).flags) == [7: 0] }
        }

        @Test func aNameThatNoSentinelKnows() async throws {
            let deployment = try await RedisSentinels.shared.value
            let caller = caller(deployment)
            caller.settings.redis = deployment.url.replacing("/reactions", with: "/nobody")
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.code == code(RX_ERROR_REDIS_UNREACHABLE))
            #expect(failure.detail == "The sentinel knows no master of this name.")
        }

        @Test func aReplicaIsNotTakenForAMaster() async throws {
            let deployment = try await RedisSentinels.shared.value
            let caller = caller(deployment)
            let master = try deployment.master()
            let replica = try #require(deployment.servers.first { $0 !== master })
            caller.settings.redis = "redis://127.0.0.1:\(replica.port)"
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.detail == "The server is a replica.")
        }

        @Test func sentinelsHaveAPasswordOfTheirOwn() async throws {
            let deployment = try await RedisSentinels.start(password: "one", sentinelPassword: "two")
            let caller = caller(deployment)
            func failure() -> Int32? {
                do {
                    _ = try caller.read([7])
                    return nil
                } catch { return (error as? Caller.Failure)?.code }
            }
            caller.settings.redisPassword = "one"
            #expect(failure() == code(RX_ERROR_REDIS_REFUSED))
            caller.settings.sentinelPassword = "one"
            #expect(failure() == code(RX_ERROR_REDIS_REFUSED))
            caller.settings.sentinelPassword = "two"
            #expect(failure() == nil)
            caller.settings.redisPassword = "two"
            #expect(failure() == code(RX_ERROR_REDIS_REFUSED))
        }

        @Test func theDocumentedRightsAtSentinelsAreEnough() async throws {
            let user = "user reactions on >password \(try DocumentedACL.sentinels())"
            let deployment = try await RedisSentinels.start(sentinelConfiguration: [user], sentinelPassword: "admin")
            let caller = caller(deployment)
            caller.settings.sentinelUser = "reactions"
            caller.settings.sentinelPassword = "password"
            #expect(try caller.read([7]).wanted == [nil])
        }
    }
}
