import CReactionsBoundary
import Glibc
import ReactionModel
import RedisStore
import TestSupport
import Testing

extension Boundary {
    /// Entities that change their tier, are built anew or go, in the middle of a page and between two of them, while one user moves to
    /// the front. Everybody else is told once, in order; he at most once.
    @Suite struct EntityChanges {
        enum Change: String, CaseIterable { case promotion, demotion, rebuilding, removal }
        /// Where a page's commands are cut in two: in front of a list, of the sample, and of the marker behind them.
        enum Cut: String, CaseIterable { case reactions = ":reactions", sample = ":sample", marker = "HMGET" }

        private static let mover: Int64 = 5
        private static let before = (1...40).reversed().map { reactor($0, $0, 1) }
        private static let after = [reactor(100, mover, 3)] + before.filter { $0.position.userID != mover }

        /// The entity as the agent writes it.
        private func install(_ tier: EntityTier, _ reactors: [Reactor], by installer: Installer) throws {
            for suffix in [KeySpace.reactionsSuffix, KeySpace.sampleSuffix] {
                try installer.redis.command(bytes: [Array("UNLINK".utf8), installer.key(1, suffix)])
            }
            let sample = Array(reactors.prefix(tier == .viral ? 10 : reactors.count))
            try installer.install(
                1, tier, counts: [40, 0, 0, 0], users: 40, floor: tier == .viral ? sample.last?.position : nil,
                reactors: sample)
        }

        /// What the mover does, and what the agent makes of it.
        private func make(_ change: Change, _ tier: EntityTier, _ site: EntityWarehouse.Site) throws {
            try site.add([(100, Self.mover, 1, 2, 0, 8)])
            var installer = site.installer
            installer.counted = CountedChunk(batch: BatchNumber(rawValue: 8), part: 0)
            // A promotion goes on with the entity's life; what is built is another one.
            if change != .promotion { installer.nonce = Array("ffff0123456789ab".utf8) }
            switch change {
            case .promotion: try install(.viral, Self.after, by: installer)
            case .demotion: try install(.regular, Self.after, by: installer)
            case .rebuilding: try install(tier, Self.after, by: installer)
            case .removal:
                for suffix in KeySpace.entitySuffixes {
                    try installer.redis.command(bytes: [Array("UNLINK".utf8), installer.key(1, suffix)])
                }
            }
        }

        private func site(_ tier: EntityTier) async throws -> EntityWarehouse.Site {
            let site = try await EntityWarehouse.site(.debian)
            try site.add((1...40).map { ($0, $0, 1, 1, 0, 1) })
            try install(tier, Self.before, by: site.installer)
            site.caller.settings.fillWait = 0
            return site
        }

        private func rest(_ caller: Caller, after pages: [Caller.Page]) throws -> [Reactor] {
            var pages = pages
            while pages.last?.reactors.count == 12 {
                pages.append(try caller.reactors(1, limit: 12, after: pages.last, batch: 8))
            }
            return pages.flatMap(\.reactors)
        }

        private func expectOnce(_ told: [Reactor], _ comment: Comment) {
            let others = told.filter { $0.position.userID != Self.mover }
            #expect(others == Self.before.filter { $0.position.userID != Self.mover }, comment)
            #expect(told.count - others.count <= 1, comment)
        }

        private func tiers(_ change: Change) -> [EntityTier] {
            switch change {
            case .promotion: [.regular]
            case .demotion: [.viral]
            case .rebuilding, .removal: [.regular, .viral]
            }
        }

        @Test(arguments: Change.allCases, Cut.allCases) func inTheMiddleOfAPage(change: Change, cut: Cut) async throws {
            for tier in tiers(change) {
                let site = try await site(tier)
                let caller = site.caller
                let proxy = try FaultProxy(target: try await RedisServer.shared.value.port)
                caller.settings.redis = "redis://127.0.0.1:\(proxy.port)"
                // Connected, so that the next bytes are the page's.
                _ = try caller.status(1)
                proxy.breakNext(containing: cut.rawValue, .holdRequest)
                var hasChanged = false
                caller.whileWaiting = {
                    guard !hasChanged else { return }
                    let start = ContinuousClock.now
                    while proxy.faults == 0, ContinuousClock.now - start < .seconds(10) { sched_yield() }
                    hasChanged = proxy.faults == 1
                    #expect(throws: Never.self) { try make(change, tier, site) }
                    proxy.release()
                }
                let first = try caller.reactors(1, limit: 12, batch: 8)
                #expect(hasChanged)
                // As it was, or as it is: never of both.
                #expect([Self.before, Self.after].map { Array($0.prefix(12)) }.contains(first.reactors))
                expectOnce(try rest(caller, after: [first]), "\(tier)")
                // What was not of one life was missed.
                #expect(
                    (first.wanted == []) == (change == .promotion && tier == .regular && cut != .reactions), "\(tier)")
            }
        }

        @Test(arguments: Change.allCases) func betweenTwoPages(change: Change) async throws {
            for tier in tiers(change) {
                let site = try await site(tier)
                let first = try site.caller.reactors(1, limit: 12, batch: 8)
                #expect(first.reactors == Array(Self.before.prefix(12)))
                try make(change, tier, site)
                let told = try rest(site.caller, after: [first])
                // Who moves to the front behind the reader is not told again, and not where he was.
                #expect(told == Self.before.filter { $0.position.userID != Self.mover }, "\(tier)")
            }
        }
    }
}
