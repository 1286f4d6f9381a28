import ClickHouseStore
import ReactionModel
import RedisStore
import SeededRandom
import Testing

@testable import ReactionBackend

@Suite struct DecoderTests {
    private let stamp = Stamp(redisHistory: [1], systemIdentifier: 2, timeline: 3, epoch: 4)

    private func replies(_ text: String, splitAt step: Int = .max) throws -> ReplyReader {
        let reader = ReplyReader()
        reader.startConversation()
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let part = rest.prefix(step)
            rest = rest.dropFirst(part.count)
            try part.withUnsafeBytes { try reader.feed($0) }
        }
        return reader
    }

    @Test(arguments: [1, 2, 3, 7, 1_000])
    func repliesAreReadHoweverTheyArriveInPieces(step: Int) throws {
        let reader = try replies("*3\r\n$2\r\nab\r\n$-1\r\n:-7\r\n-NOSCRIPT x\r\n*0\r\n+OK\r\n", splitAt: step)
        let arena = reader.replies
        #expect(reader.replyCount == 4)
        #expect(arena[0] == .array(3))
        #expect(arena.text(at: 1).elementsEqual("ab".utf8))
        #expect(arena[2] == .null)
        #expect(arena[3] == .integer(-7))
        #expect(arena.position(after: 0) == 4)
        #expect(arena.error(at: 4)?.elementsEqual("NOSCRIPT x".utf8) == true)
        #expect(arena[5] == .array(0))
        #expect(arena.text(at: 6).elementsEqual("OK".utf8))
        #expect(arena[7] == .missing)
        #expect(arena.position(after: 99) == 99)
    }

    @Test func aMarkerOfAnotherStampOrFormIsAbsent() {
        let digits = String(decoding: stamp.digits, as: UTF8.self)
        func marker(_ text: String) -> UserMapMarker? { UserMapMarker(ByteCursor(Array(text.utf8)), stamp: stamp) }
        let good = marker("\(digits):0123456789abcdef:17:c:100:200:0")
        #expect(good?.state == .complete)
        #expect(good?.touchedAt == 200)
        #expect(marker("0000000000000000:0123456789abcdef:17:c:100:200:0") == nil)
        #expect(marker("\(digits):0123456789abcdef:17:x:100:200:0") == nil)
        #expect(marker("\(digits):0123456789abcdef:17:c:100:200") == nil)
        #expect(marker("\(digits):0123456789abcdef:17:c:100:200:0 ") == nil)
        #expect(marker("\(digits):0123456789abcdef:99999999999999999999:c:100:200:0") == nil)
    }

    @Test(arguments: [
        ("5", 5), ("0", 0), ("5:1:20", 5), ("2147483647", 2_147_483_647), ("2147483648", nil), ("?5", nil), ("?", nil),
        ("", nil), ("-1", nil), ("5x", nil),
    ])
    func aFieldIsItsFlagsOrUnknown(text: String, flags: Int32?) {
        let bytes = Array(text.utf8)
        #expect(bytes.withUnsafeBytes { UserMapField.flags($0[...]) } == flags)
    }

    @Test func numbersAreReadUpToTheirLimits() {
        func number(_ text: String) -> Int64? {
            Array(text.utf8).withUnsafeBytes { UserMapField.entityID($0[...]) }
        }
        for value in [Int64.min, -1, 0, 1, Int64.max] { #expect(number(String(value)) == value) }
        for text in ["9223372036854775808", "-9223372036854775809", "", "-", "--1", "1-"] {
            #expect(number(text) == nil)
        }
    }

    @Test func aReadOfSomeIDsAndOfTheWholeMapAgree() throws {
        let digits = String(decoding: stamp.digits, as: UTF8.self)
        let marker = "\(digits):0123456789abcdef:17:c:100:200:0"
        func bulk(_ text: String) -> String { "$\(text.utf8.count)\r\n\(text)\r\n" }
        let fields = try replies("*5\r\n" + bulk(marker) + bulk("5:1:20") + "$-1\r\n" + bulk("?1:1:3") + bulk("0:1:9"))
        let whole = try replies(
            "*8\r\n" + bulk("7") + bulk("5:1:20") + bulk("_") + bulk(marker) + bulk("9") + bulk("?1:1:3") + bulk("-4")
                + bulk("0:1:9"))
        let ids: [Int64] = [7, 8, 9, -4]
        let byID = try UserMapReading(fields: 4, of: fields.replies, at: 0, stamp: stamp)
        let byMap = try UserMapReading(ids: ids, of: whole.replies, at: 0, stamp: stamp)
        #expect(byID.flags == [5, 0, -1, 0])
        #expect(byMap.flags == byID.flags)
        #expect(byID.unknownIDs(of: ids) == [9])
        #expect(throws: UserMapReading.Problem.unexpectedShape) {
            try UserMapReading(fields: 3, of: fields.replies, at: 0, stamp: stamp)
        }
    }

    @Test func anAnswerOfClickHouseIsWholeRowsOrNothing() {
        var body: [UInt8] = []
        func append(_ value: some FixedWidthInteger) {
            withUnsafeBytes(of: value.littleEndian) { body.append(contentsOf: $0) }
        }
        append(Int64(-5))
        append(Int64(77))
        append(Int32(-4))
        #expect(TruthRow.rows(body, flags: 15) == [TruthRow(entityID: -5, version: 77, flag: 4, isSet: false)])
        #expect(TruthRow.rows(body, flags: 3) == nil)
        #expect(TruthRow.rows(body.dropLast(), flags: 15) == nil)
        #expect(TruthRow.rows([], flags: 15) == [])
        #expect(TruthRow.rows(Array("Code: 60, no table!!".utf8), flags: .max) == nil)
    }

    @Test func noBytesFromOutsideTrapADecoder() {
        var random = SplitMix(seed: 0x5eed)
        let alphabet = Array("*$:+-0123456789\r\n_?ncp:abf".utf8)
        for round in 0..<20_000 {
            let length = Int.random(in: 0...80, using: &random)
            let bytes = (0..<length).map { _ in
                round.isMultiple(of: 2)
                    ? UInt8.random(in: .min ... .max, using: &random) : alphabet.randomElement(using: &random) ?? 0
            }
            let reader = ReplyReader()
            _ = try? bytes.withUnsafeBytes { try reader.feed($0) }
            let position = Int.random(in: -2...10, using: &random)
            let arena = reader.replies
            _ = try? UserMapReading(fields: 2, of: arena, at: position, stamp: stamp)
            _ = try? UserMapReading(wholeMapOf: arena, at: position, stamp: stamp)
            _ = UserMapMissAnswer(arena, at: position)
            _ = arena.position(after: position)
            _ = UserMapMarker(ByteCursor(stamp.digits + bytes), stamp: stamp)
            _ = bytes.withUnsafeBytes { UserMapField.flags($0[...]) }
            _ = TruthRow.rows(bytes, flags: .max)
            _ = ClickHouseError.code(in: Array("Code: ".utf8) + bytes)
            _ = RedisInfo.value(of: "run_id", in: bytes[...])
        }
    }
}
