import RedisStore
import TestSupport
import Testing

/// The contract of each script, on a real Redis. That the rules are the right ones is the matter of UserMapModelTests.
@Suite struct UserMapScriptsTests {
    let redis: PrivateRedis
    let key = "reactions:7"
    let stamp = "00000000000000aa"
    let other = "00000000000000bb"

    init() async throws { redis = try await PrivateRedis() }

    func run(_ script: Script, _ arguments: [String], on redis: PrivateRedis? = nil) throws -> RedisReply {
        try (redis ?? self.redis)(["EVAL", String(decoding: script.source, as: UTF8.self), "1", key] + arguments)
    }

    func miss(
        _ nonce: String, stamp: String = "00000000000000aa", lease: Int = 60_000, limit: Int = 5000
    ) throws -> RedisReply {
        try run(.userMapMiss, [stamp, nonce, "600", "3600", "\(lease)", "\(limit)"])
    }

    func fill(
        _ nonce: String, stamp: String = "00000000000000aa", floor: Int, state: String,
        _ fields: KeyValuePairs<Int, String>
    ) throws -> RedisReply {
        try run(.userMapFill, [stamp, nonce, "\(floor)", state] + fields.flatMap { ["\($0.key)", $0.value] })
    }

    /// Events as (entity, set, clear, version).
    func apply(_ events: (Int, Int, Int, Int)..., stamp: String = "00000000000000aa") throws -> RedisReply {
        try run(.userMapApply, [stamp] + events.flatMap { ["\($0.0)", "\($0.1)", "\($0.2)", "\($0.3)"] })
    }

    /// The fields without the marker.
    func fields() throws -> [String: String] { try redis.fields(key).filter { $0.key != "_" } }

    /// stamp, nonce, floor, state, filled, touched, lease.
    func marker() throws -> [String] { try redis.fields(key)["_", default: ""].split(separator: ":").map(String.init) }

    func now() throws -> Int {
        guard case .array(let time) = try redis("TIME"), case .string(let seconds)? = time.first else { return 0 }
        return try #require(Int(seconds))
    }

    func timeToLive() throws -> Int64 {
        guard case .integer(let seconds) = try redis("TTL", key) else { return -3 }
        return seconds
    }

    /// A map of the fields as of floor 100, made under nonce 1.
    func start(_ fields: KeyValuePairs<Int, String> = [:], state: String = "c", floor: Int = 100) throws {
        #expect(try miss("1") == ["1", "n", 1])
        #expect(try fill("1", floor: floor, state: state, fields) == 1)
    }

    // MARK: Miss

    @Test func `A miss starts a map that lives for its TTL`() throws {
        #expect(try miss("1") == ["1", "n", 1])
        let marker = try marker()
        #expect(marker[0..<4] == [stamp, "1", "0", "n"])
        #expect(abs(try now() - (try #require(Int(marker[4])))) <= 1)
        #expect(marker[4] == marker[5])
        #expect((595...600).contains(try timeToLive()))
    }

    @Test func `A map is a hash table from its first field on, so that HMGET does not search it`() throws {
        let nonce = String(repeating: "1", count: 16)
        #expect(try miss(nonce) == [.string(nonce), "n", 1])
        #expect(try redis("OBJECT", "ENCODING", key) == "hashtable")
        #expect(try fill(nonce, floor: 1, state: "c", [7: "1"]) == 1)
        #expect(try redis("OBJECT", "ENCODING", key) == "hashtable")
    }

    @Test func `While one session fills, another is told to wait`() throws {
        #expect(try miss("1") == ["1", "n", 1])
        #expect(try miss("2") == ["1", "n", 0])
    }

    @Test func `A lease that has run out goes to the next session`() throws {
        #expect(try miss("1", lease: 0) == ["1", "n", 1])
        #expect(try miss("2") == ["1", "n", 1])
        #expect(try miss("3") == ["1", "n", 0])
    }

    @Test(arguments: ["c", "p"])
    func `A miss in a filled map needs no lease`(state: String) throws {
        try start([1: "1"], state: state)
        #expect(try miss("2") == ["1", .string(state), 1])
        #expect(try miss("3") == ["1", .string(state), 1])
        #expect(try fields() == ["1": "1"])
    }

    @Test(arguments: ["", "nonsense", "00000000000000bb:1:0:c:9999999999:9999999999:0"])
    func `A map whose marker says nothing to us is started afresh`(marker: String) throws {
        try redis("HSET", key, "_", marker, "1", "1")
        #expect(try miss("2") == ["2", "n", 1])
        #expect(try fields() == [:])
    }

    @Test func `A map over its age is started afresh`() throws {
        try start([1: "1"])
        try redis("HSET", key, "_", "\(stamp):1:0:c:\(try now() - 3600):0:0")
        #expect(try miss("2") == ["2", "n", 1])
        #expect(try fields() == [:])
    }

    @Test func `A partial map over the limit is started afresh`() throws {
        try start([1: "1", 2: "0"], state: "p")
        #expect(try miss("2", limit: 2) == ["1", "p", 1])
        #expect(try miss("2", limit: 1) == ["2", "n", 1])
    }

    // MARK: Fill

    @Test func `A fill stores its fields and ends the lease`() throws {
        try start([1: "1", 2: "3:2:101", -5: "0:1:102"])
        #expect(try fields() == ["1": "1", "2": "3:2:101", "-5": "0:1:102"])
        let marker = try marker()
        #expect(marker[2..<4] == ["100", "c"])
        #expect(marker[6] == "0")
    }

    @Test func `A fill of another map is refused`() throws {
        #expect(try fill("1", floor: 1, state: "c", [1: "1"]) == 0)
        #expect(try miss("1") == ["1", "n", 1])
        #expect(try fill("2", floor: 1, state: "c", [1: "1"]) == 0)
        #expect(try fill("1", stamp: other, floor: 1, state: "c", [1: "1"]) == 0)
        #expect(try fields() == [:])
    }

    @Test func `A complete map takes thousands of fields, also over others`() throws {
        let events = (1...10_000).flatMap { ["\($0)", "2", "0", "\($0 == 1 ? 50 : 200)"] }
        let reactions = (1...10_000).flatMap { ["\($0)", "1"] }
        #expect(try miss("1") == ["1", "n", 1])
        #expect(try run(.userMapFill, [stamp, "1", "100", "c"] + reactions) == 1)
        #expect(try redis("HLEN", key) == 10_001)
        #expect(try run(.userMapApply, [stamp] + events) == 9_999)
        #expect(try run(.userMapFill, [stamp, "1", "150", "c"] + reactions.dropLast(2)) == 1)
        let found = try fields()
        #expect(found["1"] == "1")
        #expect(found["10000"] == "2:2:200")
        #expect(found.values.count { $0 == "3:2:200" } == 9_998)
        #expect(try run(.userMapFill, [stamp, "1", "200", "c"]) == 1)
        #expect(try fields() == [:])
    }

    @Test func `What was applied since the snapshot stays over the fill`() throws {
        #expect(try miss("1") == ["1", "n", 1])
        #expect(try apply((1, 2, 0, 105), (2, 0, 1, 90), (3, 1, 0, 103)) == 3)
        #expect(try fields() == ["1": "?2:2:105", "2": "?0:1:90", "3": "?1:1:103"])
        #expect(try fill("1", floor: 100, state: "c", [1: "1:1:104", 2: "1", 3: "0:1:106"]) == 1)
        #expect(try fields() == ["1": "3:1:104:2:105", "2": "1", "3": "0:1:106"])
    }

    @Test func `A complete fill says none of what it leaves out`() throws {
        #expect(try miss("1") == ["1", "n", 1])
        #expect(try apply((1, 1, 0, 90), (2, 1, 0, 101)) == 2)
        #expect(try fill("1", floor: 100, state: "c", [:]) == 1)
        #expect(try fields() == ["2": "1:1:101"])
    }

    @Test func `An older fill changes nothing that a newer one has settled`() throws {
        try start([1: "1"])
        #expect(try fill("1", floor: 50, state: "c", [1: "3", 2: "1", 3: "1:1:60", 4: "2:2:101"]) == 1)
        #expect(try fields() == ["1": "1", "4": "2:2:101"])
        #expect(try marker()[2] == "100")
    }

    @Test func `A partial map keeps what it was told of before, and none as none`() throws {
        try start([1: "1", 2: "0"], state: "p")
        #expect(try fill("1", floor: 120, state: "p", [3: "2"]) == 1)
        #expect(try fields() == ["1": "1", "2": "0", "3": "2"])
        #expect(try marker()[2..<4] == ["120", "p"])
    }

    @Test func `A complete map does not become partial`() throws {
        try start([1: "1"])
        #expect(try fill("1", floor: 120, state: "p", [2: "0", 3: "2"]) == 1)
        #expect(try fields() == ["1": "1", "3": "2"])
        #expect(try marker()[2..<4] == ["120", "c"])
    }

    @Test func `A field that cannot be read is mended by the next fill`() throws {
        try start([1: "1"])
        try redis("HSET", key, "1", "rubbish")
        #expect(try apply((1, 2, 0, 101)) == 1)
        #expect(try fields() == ["1": "?2:2:101"])
        #expect(try fill("1", floor: 100, state: "p", [1: "1"]) == 1)
        #expect(try fields() == ["1": "3:2:101"])
    }

    // MARK: Apply

    @Test func `Without a map there is nothing to apply to`() throws {
        #expect(try apply((1, 1, 0, 5)) == -1)
        #expect(try redis("EXISTS", key) == 0)
        try start()
        #expect(try apply((1, 1, 0, 101), stamp: other) == -1)
        #expect(try fields() == [:])
    }

    @Test func `Kinds keep their versions apart`() throws {
        try start([1: "1"])
        #expect(try apply((1, 2, 0, 106)) == 1)
        #expect(try apply((1, 0, 1, 105)) == 1)
        #expect(try fields() == ["1": "2:2:106:1:105"])
        #expect(try apply((1, 4, 2, 104)) == 1)
        #expect(try fields() == ["1": "6:2:106:1:105:4:104"])
    }

    @Test func `A newer event takes over the mark of an older one`() throws {
        try start()
        #expect(try apply((1, 3, 0, 101), (1, 0, 1, 102)) == 1)
        #expect(try fields() == ["1": "2:2:101:1:102"])
        #expect(try apply((1, 0, 3, 103)) == 1)
        #expect(try fields() == ["1": "0:3:103"])
    }

    @Test func `Events may come twice, late and in any order`() throws {
        try start([1: "1"])
        #expect(try apply((1, 2, 1, 103), (1, 1, 2, 102), (2, 1, 0, 104)) == 2)
        #expect(try apply((2, 1, 0, 104), (1, 1, 2, 102), (1, 2, 1, 103)) == 0)
        #expect(try fields() == ["1": "2:3:103", "2": "1:1:104"])
    }

    @Test func `A bit that is set and cleared by one event ends set`() throws {
        try start()
        #expect(try apply((1, 1, 1, 101)) == 1)
        #expect(try fields() == ["1": "1:1:101"])
    }

    @Test func `What is at or below the floor is known already`() throws {
        try start([1: "1"])
        #expect(try apply((1, 0, 1, 100), (2, 1, 0, 99)) == 0)
        #expect(try fields() == ["1": "1"])
    }

    @Test func `An event on what a partial map does not hold is kept as unknown`() throws {
        try start([1: "1"], state: "p")
        #expect(try apply((2, 1, 0, 101)) == 1)
        #expect(try fields() == ["1": "1", "2": "?1:1:101"])
    }

    @Test func `Versions are exact up to 2^53 and flags up to 2^31`() throws {
        let newest = 1 << 53 - 1
        try start([1: "1073741824"], floor: newest - 2)
        #expect(try apply((1, 1_073_741_823, 0, newest), (1, 0, 1, newest - 1)) == 1)
        #expect(try fields() == ["1": "2147483647:1073741823:\(newest)"])
        #expect(try marker()[2] == "\(newest - 2)")
    }

    // MARK: Touch

    @Test func `A touch refreshes the TTL, never beyond the greatest age`() throws {
        try start([1: "1"])
        let now = try now()
        try redis("HSET", key, "_", "\(stamp):1:100:c:\(now - 3000):\(now - 3000):0")
        try redis("EXPIRE", key, "10")
        #expect(try run(.userMapTouch, [stamp, "1", "300", "3600"]) == 1)
        #expect((295...300).contains(try timeToLive()))
        #expect(try run(.userMapTouch, [stamp, "1", "7200", "3600"]) == 1)
        #expect((590...600).contains(try timeToLive()))
        let marker = try marker()
        #expect(marker[4] == "\(now - 3000)")
        #expect(try #require(Int(marker[5])) >= now)
    }

    @Test func `A touch of another map or of one over its age does nothing`() throws {
        #expect(try run(.userMapTouch, [stamp, "1", "300", "3600"]) == 0)
        try start()
        #expect(try run(.userMapTouch, [stamp, "2", "300", "3600"]) == 0)
        #expect(try run(.userMapTouch, [other, "1", "300", "3600"]) == 0)
        #expect(try run(.userMapTouch, [stamp, "1", "300", "0"]) == 0)
        #expect((595...600).contains(try timeToLive()))
    }

    // MARK: All

    static let arguments: [Script: [String]] = [
        .userMapMiss: ["aa", "1", "600", "3600", "100", "5000"],
        .userMapFill: ["aa", "1", "100", "c", "1", "1"],
        .userMapApply: ["aa", "1", "2", "0", "101"],
        .userMapTouch: ["aa", "1", "600", "3600"],
    ]

    @Test(arguments: Script.ofUserMaps)
    func `A key of another type is an error and stays as it is`(script: Script) throws {
        try redis("SET", key, "planted")
        guard case .error(let text) = try run(script, try #require(Self.arguments[script])) else {
            Issue.record("not an error")
            return
        }
        #expect(text.hasPrefix("WRONGTYPE "))
        #expect(try redis("GET", key) == "planted")
    }

    @Test func `A full Redis still takes what corrects a map`() throws {
        try redis("CONFIG", "SET", "maxmemory", "1")
        #expect(try redis("SET", "a", "b") == .error("OOM command not allowed when used memory > 'maxmemory'."))
        for script in Script.ofUserMaps {
            #expect(try run(script, try #require(Self.arguments[script])) == Self.success[script])
        }
        #expect(try fields() == ["1": "3:2:101"])
    }

    /// A cluster refuses a script that touches a key it has not declared.
    @Test func `The scripts run in a cluster`() async throws {
        let cluster = try await PrivateRedis("cluster-enabled yes", "cluster-port \(try FreePort.next())")
        try cluster("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        try await eventually { try cluster("SET", "a", "b") == "OK" }
        for script in Script.ofUserMaps {
            #expect(try run(script, try #require(Self.arguments[script]), on: cluster) == Self.success[script])
        }
    }

    static let success: [Script: RedisReply] = [
        .userMapMiss: ["1", "n", 1], .userMapFill: 1, .userMapApply: 1, .userMapTouch: 1,
    ]
}
