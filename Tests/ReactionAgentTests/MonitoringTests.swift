import Foundation
import Pipeline
import TestSupport
import Testing

@testable import PostgresSource
@testable import ReactionAgent

/// Metrics, alerts and documents name the same things.
@Suite struct MonitoringTests {
    private static func file(_ path: String) throws -> String {
        try String(contentsOfFile: packageRoot + "/" + path, encoding: .utf8)
    }

    /// Names of `reactions.stats`, from where C has them.
    private static func counters() throws -> [String] {
        let lines = try file("extension/src/shmem.h") + file("Sources/CReactionsBoundary/include/CReactionsBoundary.h")
        return lines.matches(of: #/\bX\([A-Z_]+, ([a-z_]+)\)/#).map { String($0.1) }
    }

    /// Metrics of a leader that knows everything there is to know.
    private static func complete() throws -> Metrics {
        let metrics = Metrics()
        let counters = try counters()
        metrics.update {
            $0.role = .leading
            $0.behind.batches = 3
            $0.behind.entities = 2
            $0.erasures = (1, 2)
            $0.outboxAge = 0.5
            $0.phases = ["Image": "attached"]
            $0.unmetConditions = ["Image": 1]
            $0.backends = BackendCounters(since: 1_800_000_000, counters: counters.map { .init(name: $0, value: 5) })
            $0.redisServers = [
                RedisNode(
                    place: "127.0.0.1:6379",
                    report: .init(
                        version: "7.0.15", maxmemoryPolicy: "noeviction", usedMemory: 1_000, maxMemory: 2_000,
                        evictedKeys: 7, time: 0)),
                RedisNode(
                    place: "127.0.0.1:6380",
                    report: .init(
                        version: "7.0.15", maxmemoryPolicy: "noeviction", usedMemory: 3_000, maxMemory: nil,
                        evictedKeys: 0, time: 0)),
                RedisNode(place: "127.0.0.1:6381", report: nil),
            ]
            $0.matches = [
                MatchReport(
                    entityType: "Image", differences: [:], isCaptureInDoubt: false, lastClean: 1, fullTime: 1,
                    recentTime: 1)
            ]
            $0.reconcileInterval = 21_600
            $0.reconciliation = ReconcileReport(
                finishedAt: 1, duration: 1, scanned: 1, verified: 1,
                counts: [
                    .init(entityType: "Image", name: "regular", isFault: false, found: 5, repaired: 0),
                    .init(entityType: "Image", name: "drift", isFault: true, found: 1, repaired: 1),
                ],
                shards: [
                    .init(
                        entityType: "Image", shard: 7, regularEntities: 5, viralEntities: 1, entityBytes: 900,
                        userMaps: 2, userMapBytes: 400),
                    .init(
                        entityType: "Image", shard: 8, regularEntities: 0, viralEntities: 0, entityBytes: nil,
                        userMaps: 0, userMapBytes: nil),
                ])
        }
        return metrics
    }

    private static func names(_ page: String) -> [String] {
        page.matches(of: #/# TYPE ([a-z_]+) /#).map { String($0.1) }
    }

    @Test("every metric is in the documents, every documented one is there, and none is there twice")
    func documented() throws {
        let names = Self.names(try Self.complete().text())
        #expect(Set(names).count == names.count)
        let agent = try Self.file("docs/agent.md")
        let reference = try Self.file("docs/sql-reference.md")
        let counters = try Self.counters()
        #expect(counters.count > 15)
        for counter in counters {
            #expect(reference.contains("`\(counter)`"), "\(counter)")
            #expect(names.contains("reactiond_backend_\(counter)_total"))
        }
        let others = Set(names).subtracting(counters.map { "reactiond_backend_\($0)_total" })
        let rows = Set(agent.matches(of: #/\n\| `(reactiond_[a-z_]+)(?:\{[a-z,]+\})?` \| /#).map { String($0.1) })
        #expect(rows == others, "\(rows.symmetricDifference(others))")
        for path in ["docs/agent.md", "docs/operations.md"] {
            for match in try Self.file(path).matches(of: #/`[^`]*?(reactiond_[a-z]+_[a-z_]*[a-z])[^`…<]*`/#) {
                let name = String(match.1)
                #expect(names.contains(name), "\(path): \(name)")
            }
        }
    }

    @Test("every alert asks for metrics that there are, says why, and the operator finds what to do")
    func alerts() throws {
        let names = Set(Self.names(try Self.complete().text()))
        let rules = try Self.file("deploy/prometheus-alerts.yml")
        let alerts = rules.components(separatedBy: "- alert: ").dropFirst()
        let operations = try Self.file("docs/operations.md")
        for alert in alerts {
            let name = String(alert.prefix { $0 != "\n" })
            #expect(operations.contains("`\(name)`"), "\(name)")
            #expect(alert.contains("severity: critical") || alert.contains("severity: warning"), "\(name)")
            #expect(alert.contains("summary: \""), "\(name)")
            let asked = alert.matches(of: #/\breactiond_[a-z_]+/#).map {
                String($0.0).replacing(#/_bucket$/#, with: "")
            }
            #expect(!asked.isEmpty, "\(name)")
            for metric in asked { #expect(names.contains(metric), "\(name): \(metric)") }
        }
        let known = Set(alerts.map { String($0.prefix { $0 != "\n" }) })
        #expect(known.count == alerts.count)
        for match in operations.matches(of: #/`(React[a-z]+[A-Z][A-Za-z]+)`/#) {
            #expect(known.contains(String(match.1)), "\(match.1)")
        }
    }

    @Test("servers of Redis that cannot be found any more are told to be away, and their memory is not known")
    func away() throws {
        let metrics = try Self.complete()
        metrics.update { $0.redisServers = RedisWatchService.away($0.redisServers) }
        let page = metrics.text()
        #expect(page.contains("\nreactiond_redis_reachable_bool{server=\"127.0.0.1:6379\"} 0.0\n"))
        #expect(!page.contains("reactiond_redis_used_memory_bytes{"))
        #expect(RedisWatchService.away(nil) == nil)
    }

    @Test("what is not known, and what a follower has seen, is not shown")
    func unknown() throws {
        let metrics = try Self.complete()
        let page = metrics.text()
        for line in [
            #"reactiond_mirror_behind_batches{destination="entities"} 2.0"#,
            #"reactiond_mirror_behind_batches{destination="clickhouse"} 0.0"#,
            #"reactiond_redis_max_memory_bytes{server="127.0.0.1:6379"} 2000.0"#,
            #"reactiond_redis_evicted_keys_total{server="127.0.0.1:6379"} 7.0"#,
            #"reactiond_redis_reachable_bool{server="127.0.0.1:6381"} 0.0"#,
            #"reactiond_shard_entity_bytes{type="Image",shard="7"} 900.0"#,
            #"reactiond_shard_regular_entities{type="Image",shard="8"} 0.0"#,
            "reactiond_backend_viral_entity_hits_total 5",
        ] { #expect(page.contains("\n\(line)\n"), "\(line)") }
        // Without a limit, without an answer, without leave to ask for memory.
        for start in [
            #"reactiond_redis_max_memory_bytes{server="127.0.0.1:6380"}"#,
            #"reactiond_redis_used_memory_bytes{server="127.0.0.1:6381"}"#,
            #"reactiond_shard_entity_bytes{type="Image",shard="8"}"#,
        ] { #expect(!page.contains(start), "\(start)") }

        metrics.update { $0.role = .following }
        let followers = metrics.text()
        for start in [
            "reactiond_mirror_behind", "reactiond_mirror_under_way", "reactiond_backend_", "reactiond_shard_",
            "reactiond_redis_used", "reactiond_redis_evicted", "reactiond_redis_failing",
            "reactiond_clickhouse_failing",
            "reactiond_reconcile_last", "reactiond_match_", "reactiond_outbox_",
        ] { #expect(!followers.contains("\n\(start)") && !followers.contains(" \(start)"), "\(start)") }

        metrics.update {
            $0.role = .leading
            $0.backends = nil
            $0.redisServers = nil
            $0.reconciliation = nil
            $0.reconcileInterval = nil
        }
        let unknowing = metrics.text()
        for start in [
            "reactiond_backend_", "reactiond_shard_", "reactiond_redis_used", "reactiond_redis_reachable",
            "reactiond_reconcile_last", "reactiond_reconcile_interval",
        ] { #expect(!unknowing.contains(start), "\(start)") }
        #expect(unknowing.contains("reactiond_mirror_behind_batches"))
    }
}
