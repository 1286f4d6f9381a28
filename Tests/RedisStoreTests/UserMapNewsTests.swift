import ReactionModel
import RedisStore
import TestSupport
import Testing

/// The look before an apply, held against the script on a real Redis.
@Suite struct UserMapNewsTests {
    private let redis: PrivateRedis
    private let key = "map"
    private let stamp = Stamp(redisHistory: Array("run".utf8), systemIdentifier: 1, timeline: 1, epoch: 0)

    init() async throws { redis = try await PrivateRedis() }

    private var stampText: String { String(decoding: stamp.digits, as: UTF8.self) }

    private func text(_ field: String) throws -> ByteCursor? {
        guard case .string(let text) = try redis("HGET", key, field) else { return nil }
        return ByteCursor(Array(text.utf8))
    }

    /// What the map says of entity 5: its text, or flags and each kind's newest change above the floor, in whatever order the text
    /// has them.
    private func meaning() throws -> [String: Int64] {
        let fields = try redis.fields(key)
        guard let text = fields["5"] else { return ["absent": 1] }
        let parts = text.drop { $0 == "?" }.split(separator: ":", omittingEmptySubsequences: false).map { Int64($0) }
        guard let flags = parts.first ?? nil, parts.count % 2 == 1, !parts.contains(nil) else { return [text: 0] }
        let isKnown = !text.hasPrefix("?")
        var meaning = ["flags": flags, "known": isKnown ? 1 : 0]
        let floor = Int64(fields["_", default: ""].split(separator: ":").dropFirst(2).first ?? "") ?? 0
        for index in stride(from: 1, to: parts.count, by: 2) {
            guard let mask = parts[index], let version = parts[index + 1], !isKnown || version > floor else { continue }
            for kind in 0..<5 where mask & 1 << Int64(kind) != 0 { meaning["kind \(kind)"] = version }
        }
        return meaning
    }

    /// Whether the look calls the event news, and whether the script then changes the map.
    private func outcome(version: Int64, set: Int32, clear: Int32) throws -> (isNews: Bool, changes: Bool) {
        let isNews = UserMapNews.isNews(
            version: version, kinds: set | clear, marker: try text("_"), field: try text("5"), stamp: stamp)
        let before = try meaning()
        try redis(
            "EVAL", String(decoding: Script.userMapApply.source, as: UTF8.self), "1", key, stampText, "5", "\(set)",
            "\(clear)", "\(version)")
        return (isNews, try meaning() != before)
    }

    /// No event has the version of a mark here: the same version is the same event, which the next test has.
    @Test func `What is no news, the script finds to be none`() throws {
        var generator = SystemRandomNumberGenerator()
        func pick<Element>(_ elements: [Element]) -> Element {
            elements[Int.random(in: 0..<elements.count, using: &generator)]
        }
        var news = 0
        var old = 0
        for _ in 0..<3000 {
            try redis("DEL", key)
            let floor = pick([0, 10, 20])
            let marker = pick([
                "\(stampText):0123456789abcdef:\(floor):\(pick(["c", "p", "n"])):1:1:0", "00000000000000bb:1:0:c:1:1:0",
                "nonsense", nil,
            ])
            let field = pick([nil, "0", "3", "?", "1:", "1:x", "1:1:15", "2:1:15:2:25", "?1:1:15", "?1:3:25", "4:7:30"])
            if let marker { try redis("HSET", key, "_", marker) }
            if let field { try redis("HSET", key, "5", field) }
            let outcome = try outcome(
                version: Int64(pick([5, 14, 16, 24, 26, 40])), set: pick([0, 1, 2]), clear: pick([0, 1, 4]))
            #expect(outcome.isNews || !outcome.changes, "marker \(marker ?? "none"), field \(field ?? "none")")
            if outcome.changes { news += 1 }
            if !outcome.isNews { old += 1 }
        }
        #expect(news > 100)
        #expect(old > 100)
    }

    @Test func `What a commit has applied is no news to the agent`() throws {
        try redis("HSET", key, "_", "\(stampText):0123456789abcdef:10:c:1:1:0")
        #expect(try outcome(version: 15, set: 1, clear: 2) == (true, true))
        #expect(try outcome(version: 15, set: 1, clear: 2) == (false, false))
        #expect(try outcome(version: 16, set: 4, clear: 0) == (true, true))
        #expect(try outcome(version: 15, set: 1, clear: 2) == (false, false))
    }
}
