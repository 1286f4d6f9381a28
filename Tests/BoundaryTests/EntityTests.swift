import CReactionsBoundary
import ReactionModel
import RedisStore
import TestSupport
import Testing

extension Boundary {
    /// Entities in Redis, and what happens when they are not there.
    @Suite struct Entities {
        private func make() async throws -> (Caller, Installer) {
            let (caller, redis, prefix) = try await Boundary.caller()
            return (caller, Installer(redis: redis, prefix: prefix))
        }

        @Test func aPageOfCountsIsOneRoundTripAndAsksNobodyElse() async throws {
            let (caller, installer) = try await make()
            for entity in 1...100 as ClosedRange<Int64> {
                try installer.install(
                    entity, entity == 7 ? .viral : .regular, counts: [entity, 2, 0, .max / 4], users: 3)
            }
            _ = try caller.counts([1])
            _ = caller.takeCounters()
            let page = try caller.counts(Array(1...100))
            #expect(page.numbers == (1...100).map { [$0, 2, 0, .max / 4] })
            #expect(page.tiers == "rrrrrrv" + String(repeating: "r", count: 93))
            #expect(page.wanted == [])
            let counters = caller.takeCounters()
            #expect(counters.redis_round_trips == 1)
            #expect(Looks(counters) == .init(regularHits: 99, viralHits: 1))
            #expect(try caller.counts([3, 1], RX_COUNT_USERS).numbers == [[3], [3]])
        }

        @Test func theFirstWhoMissesAsksTheTruthAtOnceForAllThatIsMissed() async throws {
            let (caller, installer) = try await make()
            try installer.install(2, counts: [1, 0, 0, 0], users: 1)
            let page = try caller.counts([1, 2, 3], table: { [$0 * 10, 0, 0, 1] })
            #expect(
                page
                    == .init(numbers: [[10, 0, 0, 1], [1, 0, 0, 0], [30, 0, 0, 1]], tiers: "-r-", wanted: [[1, 3]]))
            #expect(try installer.wanted(1) == "1")
            #expect(try installer.wanted(2) == nil)
            #expect(try caller.counts([3, 4], table: { [$0, 0, 0, 0] }).wanted == [[3, 4]])
            #expect(try installer.wanted(3) == "2")
        }

        @Test func othersWaitForTheAgentToInstallIt() async throws {
            let (caller, installer) = try await make()
            caller.settings.fillWait = 60_000
            _ = try caller.counts([1], table: { _ in [0, 0, 0, 0] })
            var waits = 0
            caller.whileWaiting = {
                waits += 1
                if waits == 12 { try? installer.install(1, counts: [5, 0, 0, 0], users: 5) }
            }
            let page = try caller.counts([1], table: { _ in [] })
            #expect(page == .init(numbers: [[5, 0, 0, 0]], tiers: "r", wanted: []))
            // Looking again is not missing again.
            #expect(try installer.wanted(1) == "2")
        }

        @Test func whoHasWaitedInVainAsksTheTruthAndDoesNotWaitAgainSoon() async throws {
            let (caller, _) = try await make()
            caller.settings.fillWait = 1_000
            _ = try caller.counts([1], table: { _ in [0, 0, 0, 0] })
            _ = caller.takeCounters()
            #expect(try caller.counts([1], table: { _ in [4, 0, 0, 0] }).wanted == [[1]])
            #expect(caller.takeCounters().redis_round_trips > 5)
            #expect(try caller.counts([1], table: { _ in [5, 0, 0, 0] }).numbers == [[5, 0, 0, 0]])
            #expect(caller.takeCounters().redis_round_trips == 2)
        }

        @Test(arguments: [
            "another epoch", "another type", "no marker", "a damaged marker", "no number", "below zero",
        ])
        func whatRedisCannotProveIsMissed(_ what: String) async throws {
            var (caller, installer) = try await make()
            if what == "another epoch" { installer.epoch = 2 }
            try installer.install(1, counts: [5, 0, 0, 0], users: nil, reactors: [reactor(1, 1, 1)])
            let redis = installer.redis
            let key = String(decoding: try installer.key(1, KeySpace.countsSuffix), as: UTF8.self)
            switch what {
            case "another type":
                try redis.command("DEL", key)
                try redis.command("SET", key, "1")
            case "no marker": try redis.command("HDEL", key, "_")
            case "a damaged marker":
                let marker = try redis.command("HGET", key, "_").string ?? ""
                try redis.command("HSET", key, "_", String(marker.dropLast(20)))
            case "no number": try redis.command("HSET", key, "Laugh", "1.5")
            case "below zero": try redis.command("HSET", key, "Laugh", "-1")
            default: break
            }
            let page = try caller.counts([1], table: { _ in [1, 2, 3, 4] })
            #expect(page.numbers == [[1, 2, 3, 4]])
            #expect(page.wanted == [[1]])
            #expect(try installer.wanted(1) == "1")
        }

        @Test func usersOfAViralEntityMayBeUnknownAndTheAgentIsNotAskedForThem() async throws {
            let (caller, installer) = try await make()
            try installer.install(1, .viral, counts: [5, 0, 0, 0], users: nil)
            #expect(try caller.counts([1]).wanted == [])
            #expect(
                try caller.counts([1], RX_COUNT_USERS, table: { _ in [17] })
                    == .init(numbers: [[17]], tiers: "v", wanted: [[1]]))
            #expect(try installer.wanted(1) == nil)
            #expect(try caller.counts([2], RX_COUNT_USERS, table: { _ in [0] }).tiers == "-")
            #expect(try installer.wanted(2) == "1")
        }

        /// The agent writes every kind that it knows before it counts one.
        @Test func aKindThatIsNewerThanTheEntityIsZero() async throws {
            let (caller, installer) = try await make()
            try installer.install(1, counts: [5, 1, 0], users: 5)
            #expect(try caller.counts([1]) == .init(numbers: [[5, 1, 0, 0]], tiers: "r", wanted: []))
        }

        @Test func thatAMissCannotBeNotedIsNoReasonToFail() async throws {
            let (caller, installer) = try await make()
            try installer.redis.command("SET", installer.prefix + "reactions:wanted:Image", "of another type")
            #expect(try caller.counts([1], table: { _ in [1, 0, 0, 0] }).numbers == [[1, 0, 0, 0]])
        }

        @Test(arguments: [1, 2, 3, 5, 7, 100])
        func aCompleteListIsPagedThroughInRedis(size: Int32) async throws {
            let (caller, installer) = try await make()
            let reactors = (1...10).reversed().map { reactor($0 / 4, $0, Int32($0 % 15) + 1, time: UInt32($0 / 2)) }
            try installer.install(1, counts: [0, 0, 0, 0], users: 10, reactors: reactors)
            let pages = try caller.pages(1, of: size)
            #expect(pages.flatMap(\.reactors) == reactors)
            #expect(pages.allSatisfy { $0.wanted.isEmpty && $0.seen == installer.counted })
            #expect(
                try caller.pages(1, mask: 2, of: size).flatMap(\.reactors) == reactors.filter { $0.flags & 2 != 0 })
            #expect(try caller.pages(1, mask: 8, of: size).flatMap(\.wanted) == [])
        }

        @Test func theFirstPageReadsNoMoreOfTheListThanItShows() async throws {
            let (caller, installer) = try await make()
            let reactors = (1...5_000).reversed().map { reactor($0, $0, 1) }
            try installer.install(1, counts: [5_000, 0, 0, 0], users: 5_000, reactors: reactors)
            try installer.redis.command("CONFIG", "RESETSTAT")
            #expect(try caller.reactors(1, limit: 50).reactors == Array(reactors.prefix(50)))
            let stats = try installer.redis.command("INFO", "stats").string ?? ""
            let line = stats.split(whereSeparator: \.isNewline).first { $0.hasPrefix("total_net_output_bytes:") } ?? ""
            #expect(Int(line.dropFirst(23)) ?? .max < 20_000)
        }

        @Test(arguments: ["no list", "a list of another life", "a damaged list", "another type"])
        func aListThatIsNotThisEntitysIsMissed(_ what: String) async throws {
            let (caller, installer) = try await make()
            try installer.install(1, counts: [1, 0, 0, 0], users: 1, reactors: [reactor(9, 9, 1)])
            let key = String(decoding: try installer.key(1, KeySpace.reactionsSuffix), as: UTF8.self)
            switch what {
            case "no list": try installer.redis.command("DEL", key)
            case "a damaged list": try installer.redis.command("APPEND", key, "x")
            case "another type":
                try installer.redis.command("DEL", key)
                try installer.redis.command("LPUSH", key, "x")
            default:
                var other = installer
                other.nonce = Array("ffff0123456789ab".utf8)
                try other.redis.command(bytes: [
                    Array("SET".utf8), other.key(1, KeySpace.reactionsSuffix),
                    ReactionList(nonce: other.nonce, reactors: [reactor(9, 9, 1)]).packed(allFlags: 15),
                ])
            }
            // Nobody can be asked here: it is enough that the truth is wanted.
            caller.settings.clickHouse = ""
            let failure = try #require(throws: Caller.Failure.self) { try caller.reactors(1, limit: 100) }
            #expect(failure.message == "reactions.clickhouse_url is not set")
            #expect(try installer.wanted(1) == "1")
        }

        @Test func theTierIsToldWithItsReason() async throws {
            let (caller, installer) = try await make()
            try installer.install(
                1, .viral, counts: [1, 0, 0, 0], users: 1, reason: "1767225700:10000 users: at the threshold")
            let status = try caller.status(1)
            #expect(status == (0x76, 1_767_225_700, "10000 users: at the threshold", 7, 1_767_225_600))
            #expect(try caller.status(2).tier == 0)
            try installer.install(3, counts: [1, 0, 0, 0], users: 1, reason: "no number")
            #expect(try caller.status(3) == (0x72, 0, "", 7, 1_767_225_600))
            // Of somebody else's making: no time that PostgreSQL has, and bytes that need not be characters.
            try installer.install(4, counts: [1, 0, 0, 0], users: 1, reason: "9000000000000000000:rate\u{e9}\u{1}")
            #expect(try caller.status(4) == (0x72, 0, "rate", 7, 1_767_225_600))
        }

        @Test func aBrokenCallIsAFailureAndNoTrap() {
            for exchange in [rx_counts_begin(nil), rx_reactors_begin(nil), rx_entity_status_begin(nil, 1)] {
                #expect(rx_step(exchange, 0).action == Int32(bitPattern: RX_FAILED.rawValue))
                var count = 1
                rx_wanted_entities(exchange, nil, &count)
                #expect(count == 0)
                rx_give_counts(exchange, nil, 3)
                rx_give_batch(exchange, 1)
                rx_copy_counts(exchange, nil, nil)
                var result = rx_reactors_result()
                rx_reactors_answer(exchange, &result)
                #expect(result.count == 0)
                rx_end(exchange)
            }
        }
    }
}
