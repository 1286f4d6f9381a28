import CReactionsBoundary
import TestSupport
import Testing

/// The functions of the header on real servers. Serialized, since a process has one session.
@Suite(.serialized) struct Boundary {
    @Test func keyTemplates() throws {
        #expect(rx_template_problem("user:<shard>:<user>", "<user>") == nil)
        let problem = try #require(rx_template_problem("user", "<user>"))
        #expect(String(cString: problem) == "The template does not contain the placeholder of the id.")
        #expect(rx_template_problem("user", "<user>") == problem)
        var shape = [CChar](repeating: 1, count: 8)
        #expect(rx_template_shape("post:<shard>:<entity>", &shape, shape.count) == 8)
        #expect(shape.map(UInt8.init(bitPattern:)) == Array("post:#:\0".utf8))
    }

    @Test func aBrokenCallIsAFailureAndNoTrap() {
        let exchange = rx_read_begin(nil)
        #expect(rx_step(exchange, 0).action == Int32(bitPattern: RX_FAILED.rawValue))
        var error = rx_error()
        rx_failure(exchange, &error)
        #expect(error.code == Int32(bitPattern: RX_ERROR_INTERNAL.rawValue))
        var result = rx_read_result()
        rx_read_answer(exchange, &result)
        #expect(result.count == 0)
        var rows: UnsafePointer<rx_probe_row>?
        #expect(rx_probe_rows(exchange, &rows) == 0)
        rx_end(exchange)
        rx_end(nil)
        #expect(rx_step(nil, 0).action == Int32(bitPattern: RX_FAILED.rawValue))
        rx_apply_abandon()
    }

    @Test func anUnsetEndpointIsNamed() throws {
        let caller = Caller(.init())
        let failure = try #require(throws: Caller.Failure.self) { try caller.read([1]) }
        #expect(failure.code == Int32(bitPattern: RX_ERROR_NOT_CONFIGURED.rawValue))
        #expect(failure.message == "reactions.redis_url is not set")
    }

    /// Settings of a Redis of everyone's, under a prefix of one's own.
    static func caller() async throws -> (Caller, RedisConnection, prefix: String) {
        let server = try await RedisServer.shared.value
        let prefix = uniqueName() + ":"
        var settings = Caller.Settings()
        settings.redis = "unix://\(server.socketPath)"
        settings.prefix = prefix
        return (Caller(settings), try server.connect(), prefix)
    }
}

extension Boundary {
    @Suite struct Reading {
        @Test func aMissAsksTheTruthOnceAndTheNextReadIsAHit() async throws {
            let (caller, redis, prefix) = try await caller()
            caller.truth.table = [7: 5, 9: 1]
            #expect(try caller.read([7, 8]) == .init(flags: [7: 5, 8: 0], isComplete: true, wanted: [nil]))
            #expect(try caller.read([9, 8, 7]) == .init(flags: [7: 5, 8: 0, 9: 1], isComplete: true, wanted: []))
            #expect(try caller.read(nil) == .init(flags: [7: 5, 9: 1], isComplete: true, wanted: []))
            #expect(try redis.command("HGET", prefix + "reactions:1", "7") == .string("5"))
            #expect(try redis.command("TTL", prefix + "reactions:1").integer ?? 0 > 600_000)
            let counters = caller.takeCounters()
            #expect(counters.fills == 1)
            #expect(counters.misses == 2)
            #expect(counters.hits == 4)
            #expect(counters.redis_connects <= 1)
        }

        @Test func anEventOfTheOutboxIsStoredWithItsVersionAlsoIfItTookTheReactionAway() async throws {
            let (caller, redis, prefix) = try await caller()
            caller.truth = .init(
                table: [7: 4], outbox: [event(7, 20, set: 4), event(8, 30, clear: 1), event(9, 5, set: 1)])
            #expect(try caller.read([7, 8]).flags == [7: 4, 8: 0])
            let fields = try redis.command("HMGET", prefix + "reactions:1", "7", "8", "9")
            #expect(fields == .array([.string("4:4:20"), .string("0:1:30"), .null]))
        }

        @Test func aUserOverTheLimitHasAPartialMap() async throws {
            let (caller, redis, prefix) = try await caller()
            caller.limit = 3
            caller.truth.table = [1: 1, 2: 2, 3: 1, 4: 1]
            #expect(try caller.read([2, 9]) == .init(flags: [2: 2, 9: 0], isComplete: true, wanted: [nil, [2, 9]]))
            #expect(try caller.read([2, 9]).wanted == [])
            #expect(try caller.read([2, 3]) == .init(flags: [2: 2, 3: 1], isComplete: true, wanted: [[3]]))
            #expect(try redis.command("HGET", prefix + "reactions:1", "9") == .string("0"))
            #expect(try caller.read(nil) == .init(flags: [:], isComplete: false, wanted: []))
        }

        @Test func anEventOnWhatAPartialMapDoesNotHoldIsUnknownUntilTheTruthIsAsked() async throws {
            let (caller, redis, prefix) = try await caller()
            caller.limit = 3
            caller.truth.table = [1: 1, 2: 2, 3: 1, 4: 1, 9: 2]
            _ = try caller.read([2])
            #expect(caller.commit([event(9, 20, set: 1)]) == 1)
            #expect(try redis.command("HGET", prefix + "reactions:1", "9").string?.hasPrefix("?") == true)
            #expect(try caller.read([9], mayFill: false, truth: RX_TRUTH_NONE).flags == [9: -1])
            caller.truth.table[9] = 3
            caller.truth.outbox = [event(9, 20, set: 1)]
            #expect(try caller.read([2, 9]) == .init(flags: [2: 2, 9: 3], isComplete: true, wanted: [[9]]))
            #expect(try redis.command("HGET", prefix + "reactions:1", "9") == .string("3:1:20"))
        }

        @Test func aMapThatWasNotTouchedForADayIsTouched() async throws {
            let (caller, redis, prefix) = try await caller()
            let key = prefix + "reactions:1"
            _ = try caller.read([7])
            var marker = try #require(redis.command("HGET", key, "_").string).split(separator: ":")
            let touched = try #require(Int(marker[5]))
            marker[5] = Substring(String(touched - 90_000))
            try redis.command("HSET", key, "_", marker.joined(separator: ":"))
            try redis.command("EXPIRE", key, "1000")
            #expect(try caller.read([7]).wanted == [])
            #expect(try redis.command("TTL", key).integer ?? 0 > 1_000)
            _ = caller.takeCounters()
            #expect(try caller.read([7]).wanted == [])
            #expect(caller.takeCounters().redis_round_trips == 1)
        }

        @Test func aWholeMapOfAUserOverTheLimitIsIncompleteAndRemembersIt() async throws {
            let (caller, _, _) = try await caller()
            caller.limit = 2
            caller.truth.table = [1: 1, 2: 2, 3: 1]
            #expect(try caller.read(nil) == .init(flags: [:], isComplete: false, wanted: [nil]))
            #expect(try caller.read(nil) == .init(flags: [:], isComplete: false, wanted: []))
            #expect(try caller.read([3]).flags == [3: 1])
        }

        @Test func aMapOfAnotherEpochIsAbsent() async throws {
            let (caller, _, _) = try await caller()
            caller.truth.table = [7: 1]
            _ = try caller.read([7])
            caller.epoch += 1
            caller.truth.table = [7: 2]
            #expect(try caller.read([7]) == .init(flags: [7: 2], isComplete: true, wanted: [nil]))
        }

        @Test func aReadThatMayNotFillStoresNothing() async throws {
            let (caller, redis, prefix) = try await caller()
            caller.truth.table = [7: 1]
            #expect(try caller.read([7], mayFill: false).wanted == [[7]])
            #expect(try caller.read([7], mayFill: false).wanted == [[7]])
            #expect(try redis.command("EXISTS", prefix + "reactions:1") == .integer(0))
        }

        @Test func aReadThatSkipsRedisAsksTheTruthOnly() async throws {
            let (caller, _, _) = try await caller()
            caller.truth.table = [7: 1]
            _ = try caller.read([7])
            caller.truth.table = [7: 2]
            #expect(try caller.read([7], skipsRedis: true) == .init(flags: [7: 2], isComplete: true, wanted: [[7]]))
        }

        @Test func withoutATruthWhatIsNotCachedIsUnknown() async throws {
            let (caller, redis, prefix) = try await caller()
            #expect(try caller.read([7], mayFill: false, truth: RX_TRUTH_NONE).flags == [7: -1])
            #expect(try redis.command("EXISTS", prefix + "reactions:1") == .integer(0))
            caller.truth.table = [7: 1]
            _ = try caller.read([7])
            #expect(try caller.read([7, 8], mayFill: false, truth: RX_TRUTH_NONE).flags == [7: 1, 8: 0])
        }

        @Test func extremeIDsAndManyOfThem() async throws {
            let (caller, _, _) = try await caller()
            caller.limit = 10_000
            caller.truth.table = [.min: 1, -1: 2, 0: 4, .max: 8]
            #expect(
                try caller.read(user: .min, [.min, -1, 0, .max, 5]).flags == [.min: 1, -1: 2, 0: 4, .max: 8, 5: 0])
            let ids = Array(-3_000...3_000 as ClosedRange<Int64>)
            let byFields = try caller.read(user: .min, ids)
            caller.settings.hashThreshold = 50
            let byMap = try caller.read(user: .min, ids)
            #expect(byFields.wanted == [])
            #expect(byMap == byFields)
            #expect(byMap.flags[-1] == 2)
        }

        @Test func anotherSessionsFillIsAwaitedAndThenNotCompetedWith() async throws {
            let (caller, redis, prefix) = try await caller()
            caller.truth.table = [7: 1]
            let filling = caller.beginRead([7])
            #expect(caller.step(filling).action == Int32(bitPattern: RX_WANT_TRUTH.rawValue))
            #expect(try caller.read([7]) == .init(flags: [7: 1], isComplete: true, wanted: [[7]]))
            #expect(try redis.command("HLEN", prefix + "reactions:1") == .integer(1))
            #expect(try caller.finish(filling, asked: [7]).flags == [7: 1])
            #expect(try caller.read([7]).wanted == [])
        }

        @Test func aFillIntoAMapThatWasDroppedMeanwhileIsRefused() async throws {
            let (caller, redis, prefix) = try await caller()
            caller.truth.table = [7: 1]
            let late = caller.beginRead([7])
            #expect(caller.step(late).action == Int32(bitPattern: RX_WANT_TRUTH.rawValue))
            caller.give(late)
            try redis.command("DEL", prefix + "reactions:1")
            #expect(caller.step(late).action == Int32(bitPattern: RX_DONE.rawValue))
            #expect(caller.answer(of: late, asked: [7]).flags == [7: 1])
            rx_end(late)
            #expect(try redis.command("EXISTS", prefix + "reactions:1") == .integer(0))
            #expect(caller.takeCounters().fills_refused == 1)
        }

        @Test func scriptsThatRedisForgotAreLoadedAgain() async throws {
            let (caller, redis, _) = try await caller()
            _ = try caller.read([7])
            try redis.command("SCRIPT", "FLUSH")
            caller.epoch += 1
            #expect(try caller.read([7]).wanted == [nil])
            #expect(try caller.read([7]).wanted == [])
        }

        @Test func aKeyOfAnotherProgramIsNonsenseUntilItIsDropped() async throws {
            let (caller, redis, prefix) = try await caller()
            try redis.command("SET", prefix + "reactions:1", "x")
            let failure = try #require(throws: Caller.Failure.self) { try caller.read([7]) }
            #expect(failure.code == Int32(bitPattern: RX_ERROR_REDIS_NONSENSE.rawValue))
            #expect(failure.hint.contains("reactions.invalidate"))
            try caller.invalidate(user: 1)
            #expect(try caller.read([7]).wanted == [nil])
        }

        @Test func invalidateDropsTheKeysOfAUserAndOfAnEntity() async throws {
            let (caller, redis, prefix) = try await caller()
            _ = try caller.read([7])
            for suffix in ["reaction_counts", "total_reactions", "viral", "reactions", "sample"] {
                try redis.command("SET", prefix + "post:93:-7:" + suffix, "x")
            }
            try caller.invalidate(user: 1, entity: -7)
            #expect(try redis.command("KEYS", prefix + "*") == .array([]))
        }
    }

    @Suite struct Committing {
        @Test func anEventAppliedAtCommitIsReadAtOnce() async throws {
            let (caller, redis, prefix) = try await caller()
            caller.truth.table = [7: 1]
            _ = try caller.read([7])
            #expect(caller.commit([event(7, 20, set: 2), event(8, 21, set: 4), event(7, 22, clear: 1)]) == 3)
            #expect(try caller.read([7, 8]) == .init(flags: [7: 2, 8: 4], isComplete: true, wanted: []))
            #expect(try redis.command("EXISTS", prefix + "reactions:2") == .integer(0))
        }

        @Test func severalUsersAndTypesAreOneConversation() async throws {
            let (caller, _, _) = try await caller()
            _ = try caller.read(user: 1, [7])
            _ = try caller.read(user: 2, [7])
            _ = caller.takeCounters()
            #expect(caller.prepare([event(7, 20, set: 1, user: 2), event(7, 21, set: 2, user: 1)]) == 2)
            #expect(caller.commit([event(8, 22, set: 4, user: 1)]) == 3)
            #expect(caller.takeCounters().redis_round_trips == 1)
            #expect(try caller.read(user: 1, [7, 8]) == .init(flags: [7: 2, 8: 4], isComplete: true, wanted: []))
            #expect(try caller.read(user: 2, [7]).flags == [7: 1])
        }

        @Test func whatWasAbandonedBeforeItWasSentNeverArrives() async throws {
            let (caller, _, _) = try await caller()
            _ = try caller.read([7])
            #expect(caller.prepare([event(7, 20, set: 1)]) == 1)
            rx_apply_abandon()
            #expect(rx_apply_step(0).action == Int32(bitPattern: RX_DONE.rawValue))
            #expect(try caller.read([7]).flags == [7: 0])
        }

        @Test func givingUpWithAReplyOutstandingClosesTheConnection() async throws {
            let server = try await RedisServer.start()
            var settings = Caller.Settings()
            settings.redis = "unix://\(server.socketPath)"
            let caller = Caller(settings)
            _ = try caller.read([7])
            server.pause()
            #expect(caller.prepare([event(7, 20, set: 1)]) == 1)
            #expect(rx_apply_step(0).action == Int32(bitPattern: RX_WAIT_READ.rawValue))
            rx_apply_abandon()
            let connects = caller.takeCounters().redis_connects
            #expect(caller.passesBy([event(7, 20, set: 1)]))
            server.resume()
            // The command had been sent: Redis may carry it out, and the reply never reaches another conversation.
            #expect([0, 1].contains(try caller.read([7]).flags[7]))
            #expect(connects + caller.takeCounters().redis_connects == 2)
        }

        @Test func nothingIsSentWithoutAConnection() async throws {
            let (caller, _, _) = try await caller()
            #expect(caller.passesBy([event(7, 20, set: 1)]))
            #expect(caller.takeCounters().redis_connects == 0)
        }

        @Test func whatIsNotedIsConnectedFor() async throws {
            let (caller, _, _) = try await caller()
            #expect(caller.prepare([event(7, 20, set: 1)]) == 1)
            try caller.open()
            #expect(caller.commit([event(7, 21, set: 1)]) == 2)
            // Nothing is noted any more.
            try caller.open()
            #expect(caller.takeCounters().redis_connects == 1)
        }

        @Test func scriptsForgottenBeforeACommitAreLoadedWithTheNextOne() async throws {
            let (caller, redis, _) = try await caller()
            _ = try caller.read([7])
            try redis.command("SCRIPT", "FLUSH")
            #expect(caller.commit([event(7, 20, set: 1)]) == 1)
            #expect(try caller.read([7]).flags == [7: 0])
            #expect(caller.commit([event(7, 21, set: 2)]) == 1)
            #expect(try caller.read([7]).flags == [7: 2])
        }
    }
}
