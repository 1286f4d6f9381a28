import ReactionModel
import Testing

@Suite struct KeyTemplateTests {
    func key(_ text: String, _ id: Int64, shards: Int32 = 100, required: String = "<user>") throws -> String {
        var bytes: [UInt8] = []
        try KeyTemplate(text, required: required).append(id: id, shardCount: shards, to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test(
        arguments: [
            ("reactions:<user>", 7, "reactions:7"),
            ("user:<shard>:<user>:reactions", 1234, "user:34:1234:reactions"),
            ("<user>", Int64.max, "9223372036854775807"),
            ("<user>", Int64.min, "-9223372036854775808"),
            ("<shard>/<user>", Int64.min, "92/-9223372036854775808"),
            ("<shard>/<user>", -1, "99/-1"),
            ("<shard>/<user>", -100, "0/-100"),
            ("<user><user>", 0, "00"),
        ] as [(String, Int64, String)])
    func `A template renders to a key`(text: String, id: Int64, expected: String) throws {
        #expect(try key(text, id) == expected)
    }

    @Test func `A key is appended to what is there`() throws {
        var bytes = Array("prefix:".utf8)
        try KeyTemplate("post:<shard>:<entity>", required: "<entity>").append(id: 205, shardCount: 100, to: &bytes)
        #expect(String(decoding: bytes, as: UTF8.self) == "prefix:post:5:205")
    }

    @Test(
        arguments: [
            (0, 100, 0), (99, 100, 99), (100, 100, 0), (-1, 100, 99), (-100, 100, 0), (-101, 100, 99),
            (Int64.min, 1, 0),
            (Int64.min, Int32.max, 2_147_483_645), (Int64.max, 16_384, 16_383), (5, 0, 0), (5, -3, 0),
            (-5, Int32.min, 0),
        ] as [(Int64, Int32, Int32)])
    func `A shard lies within the shard count, whatever the id`(id: Int64, count: Int32, expected: Int32) {
        #expect(KeyTemplate.shard(of: id, count: count) == expected)
    }

    @Test(arguments: [
        ("", KeyTemplate.Problem.empty),
        (String(repeating: "a", count: 195) + "<user>", .tooLong),
        ("reactions", .idMissing),
        ("<shard>", .idMissing),
        ("post:<entity>", .unknownPlaceholder),
        ("<user>:<User>", .unknownPlaceholder),
        ("<user>:<", .unknownPlaceholder),
        ("<user>:<>", .unknownPlaceholder),
        ("a b:<user>", .invalidCharacter),
        ("{<user>}", .invalidCharacter),
        ("r\u{E9}actions:<user>", .invalidCharacter),
        ("\u{7F}<user>", .invalidCharacter),
        ("\n<user>", .invalidCharacter),
    ])
    func `A bad template is refused with its reason`(text: String, problem: KeyTemplate.Problem) {
        #expect(throws: problem) { try KeyTemplate(text, required: "<user>") }
    }

    @Test func `The longest template is of 200 bytes`() throws {
        #expect(try key(String(repeating: "a", count: 194) + "<user>", 1).utf8.count == 195)
    }

    func shape(_ text: String, required: String = "<user>") throws -> String {
        String(decoding: try KeyTemplate(text, required: required).shape, as: UTF8.self)
    }

    @Test(arguments: [
        ("reactions:<user>", "reactions:#"), ("user:<shard>:<user>:r2d2", "user:#:#:r#d#"), ("<shard><user>", "#"),
        ("a-1<user>--", "a#"), ("<user>x", "#x"), ("->10<user>", "#>#"),
    ])
    func `A shape folds placeholders and numbers`(text: String, expected: String) throws {
        #expect(try shape(text) == expected)
    }

    @Test(arguments: [
        ("a:1<user>", "a:<user>1"), ("a:<user>", "a:<shard><user>"), ("a:<shard>:<user>", "a:5:<user>"),
        ("a<user>", "a-<user>"),
    ])
    func `Templates that could render to one key have one shape`(first: String, second: String) throws {
        #expect(try shape(first) == shape(second))
    }

    @Test func `Templates that never meet keep their shapes`() throws {
        #expect(try shape("reactions:<user>") != shape("user:<shard>:<user>:reactions"))
        #expect(try shape("a:<user>") != shape("b:<user>"))
    }
}

@Suite struct DecimalTests {
    @Test(arguments: [0, 1, -1, 9, 10, -10, 1_234_567_890, Int64.max, Int64.min])
    func `A number is appended as its decimal digits`(number: Int64) {
        var bytes = Array("x".utf8)
        bytes.appendDecimal(number)
        #expect(String(decoding: bytes, as: UTF8.self) == "x\(number)")
    }
}
