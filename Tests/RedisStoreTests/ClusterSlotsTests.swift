import ReactionModel
import RedisStore
import Testing

@Suite struct ClusterSlotsTests {
    private let here = RedisPlace.tcp(host: "10.0.0.1", port: 7000)
    private let there = RedisPlace.tcp(host: "10.0.0.2", port: 7001)

    /// As CLUSTER KEYSLOT of Redis 7.0 answers.
    @Test(arguments: [
        ("", 0), ("123456789", 12739), ("foo", 12182), ("{foo}bar", 12182), ("a{foo}{bar}", 12182),
        ("reactions:42", 15261), ("post:{7}:107:reaction_counts", 1716), ("7", 1716), ("{}foo", 9500), ("{foo", 13308),
        ("a{}{foo}", 700), ("foo}{", 8134), ("\u{e9}", 10180),
    ])
    func slotsOfKeys(key: String, slot: Int) {
        #expect(ClusterSlots.slot(of: Array(key.utf8)[...]) == slot)
    }

    @Test func theNewestAssignmentCounts() {
        var slots = ClusterSlots()
        #expect(slots[5] == nil)
        #expect(slots.unknownCount == 16_384)
        slots.assign(0...16_383, to: here)
        slots.assign(5...5, to: there)
        #expect(slots[5] == there && slots[4] == here && slots[6] == here)
        #expect(slots[-1] == nil && slots[16_384] == nil)
        #expect(slots.masters == [here, there])
        slots.assign(5...5, to: here)
        #expect(slots.masters == [here])
        #expect(slots.unknownCount == 0)
    }

    @Test func slotsThatNoClusterHasAreLeftOut() {
        var slots = ClusterSlots()
        slots.assign(-7 ... -1, to: here)
        slots.assign(16_384...99_999, to: here)
        #expect(slots.unknownCount >= 16_382)
        slots.assign(16_000...99_999, to: there)
        #expect(slots[16_383] == there)
    }

    @Test func redirections() {
        func redirection(_ text: String) -> Redirection? { Redirection(Array(text.utf8), from: here) }
        #expect(redirection("MOVED 3999 10.0.0.2:7001") == .moved(slot: 3999, to: there))
        #expect(redirection("ASK 3999 10.0.0.2:7001") == .ask(there))
        #expect(redirection("MOVED 1 ::1:7001") == .moved(slot: 1, to: .tcp(host: "::1", port: 7001)))
        #expect(redirection("MOVED 1 :7001") == .moved(slot: 1, to: .tcp(host: "10.0.0.1", port: 7001)))
        #expect(redirection("TRYAGAIN Multiple keys request during rehashing of slot") == .tryAgain)
        for text in [
            "", "ERR x", "MOVED", "MOVED 1", "MOVED x 10.0.0.2:7001", "MOVED 16384 10.0.0.2:7001", "MOVED -1 a:1",
            "MOVED 1 10.0.0.2", "MOVED 1 10.0.0.2:99999", "MOVED 1 ?:7001", "MOVED 1 a:1 b:2",
        ] {
            #expect(redirection(text) == nil, "\(text)")
        }
    }

    @Test func commandsKnowTheirSlots() {
        var commands = CommandBuffer()
        commands.begin("PING", arguments: 0)
        commands.begin("HMGET", arguments: 2)
        commands.append(key: Array("foo".utf8))
        commands.append("x{bar}")
        commands.beginScript(Array("digest".utf8), keys: 2, arguments: 0)
        commands.append(key: Array("{7}:a".utf8))
        commands.append(key: Array("{7}:b".utf8))
        #expect((0...3).map(commands.slot) == [nil, 12182, 1716, nil])

        var part = CommandBuffer()
        part.append(2, of: commands)
        part.append(1, of: commands)
        part.append(9, of: commands)
        #expect((0..<2).map(part.slot) == [1716, 12182])
        part.append(commandsOf: commands)
        #expect(part.commandCount == 5)
        #expect((0..<5).map(part.slot) == [1716, 12182, nil, 12182, 1716])
        var again = CommandBuffer()
        for command in 2..<5 { again.append(command, of: part) }
        #expect(again.bytes == commands.bytes)
    }

    @Test func theKeysOfAShardShareASlotInACluster() throws {
        let keys = KeySpace(prefix: Array("app:".utf8), isCluster: true)
        let sharded = try KeyTemplate("post:<shard>:<entity>", required: "<entity>")
        let plain = try KeyTemplate("image:<entity>", required: "<entity>")
        func text(_ key: [UInt8]) -> String { String(decoding: key, as: UTF8.self) }
        #expect(
            text(keys.key(sharded, id: 107, shardCount: 100, suffix: ":sample")) == "app:post:{7}:107:sample")
        #expect(text(keys.key(plain, id: -107, shardCount: 100, suffix: ":sample")) == "app:{93}:image:-107:sample")
        #expect(text(keys.applied(of: "Post", shard: 7)) == "app:reactions:applied:Post:{7}")
        #expect(text(keys.key(sharded, id: 107, shardCount: 100)) == "app:post:7:107")

        let alone = KeySpace(prefix: [])
        #expect(text(alone.key(plain, id: 7, shardCount: 100, suffix: ":viral")) == "image:7:viral")
        #expect(text(alone.applied(of: "Post", shard: 7)) == "reactions:applied:Post:7")
    }
}
