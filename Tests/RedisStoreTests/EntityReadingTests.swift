import ReactionModel
import Testing

@testable import RedisStore

@Suite struct ReactionListPageTests {
    private let nonce = Array("00ff0123456789ab".utf8)

    private func reactor(_ place: Int64, _ flags: Int32) -> Reactor {
        // Versions, times and users that share, so that each of them decides somewhere.
        Reactor(
            position: ReactionPosition(
                version: Version(rawValue: (place / 9) << 40), time: UInt32(place / 3 % 3), userID: place % 3 - 1),
            flags: flags)
    }

    private func page(
        _ list: ReactionList, allFlags: Int32 = 15, cut: Int? = nil, below: ReactionPosition? = nil, mask: Int32 = -1,
        limit: Int = 100
    ) -> ReactionListPage? {
        let bytes = list.packed(allFlags: allFlags)
        return ReactionListPage(
            bytes.prefix(cut ?? bytes.count), isWhole: cut == nil, nonce: nonce, below: below, mask: mask, limit: limit)
    }

    @Test(arguments: [Int32(15), 0xffff, 0x7fff_ffff], 0...4)
    func `pages of every size begin where the one before ended`(allFlags: Int32, size: Int) throws {
        let size = [1, 2, 7, 26, 100][size]
        let everybody = (1..<27).reversed().map { reactor($0, max(Int32($0) & 15, 1) | allFlags & ~15) }
        let list = ReactionList(nonce: nonce, reactors: everybody)
        var told: [Reactor] = []
        while true {
            let page = try #require(self.page(list, allFlags: allFlags, below: told.last?.position, limit: size))
            told += page.reactors
            #expect(page.end == (page.reactors.count == size ? .full : .everybody))
            if page.end == .everybody { break }
        }
        #expect(told == everybody)
    }

    @Test func `a bound that is nobody's place is one all the same`() throws {
        let list = ReactionList(nonce: nonce, reactors: [26, 20, 10].map { reactor($0, 1) })
        for bound in 1...26 as ClosedRange<Int64> {
            let page = try #require(self.page(list, below: reactor(bound, 1).position))
            #expect(page.reactors == list.reactors.filter { $0.position < reactor(bound, 1).position })
        }
    }

    @Test func `only those who have one of the kinds are told`() throws {
        let list = ReactionList(nonce: nonce, reactors: (1..<20).reversed().map { reactor($0, Int32($0) % 4 + 1) })
        #expect(page(list, mask: 2)?.reactors == list.reactors.filter { $0.flags & 2 != 0 })
        #expect(page(list, mask: 8) == nil || page(list, mask: 8)?.reactors == [])
    }

    @Test func `a sample ends at its floor, and its beginning where it was cut`() {
        let everybody = (10..<20).reversed().map { reactor($0, 1) }
        let list = ReactionList(nonce: nonce, floor: everybody[9].position, reactors: everybody)
        #expect(page(list)?.end == .floor)
        #expect(page(list, limit: 10)?.end == .full)
        #expect(page(list, cut: ReactionList.width(reactors: 4, allFlags: 15))?.reactors == Array(everybody.prefix(4)))
        #expect(page(list, cut: ReactionList.width(reactors: 4, allFlags: 15))?.end == .cut)
        // Also within a record, as a list with wider flags is cut.
        #expect(page(list, cut: ReactionList.width(reactors: 4, allFlags: 15) + 3)?.reactors.count == 4)
        #expect(page(ReactionList(nonce: nonce))?.end == .everybody)
    }

    @Test func `what is no list of this life is none`() {
        let bytes = ReactionList(nonce: nonce, reactors: [reactor(1, 1), reactor(0, 1)]).packed(allFlags: 15)
        func page(_ bytes: [UInt8], isWhole: Bool = true, nonce: String = "00ff0123456789ab") -> ReactionListPage? {
            ReactionListPage(
                bytes[...], isWhole: isWhole, nonce: Array(nonce.utf8), below: nil, mask: 15, limit: 10)
        }
        #expect(page(bytes) != nil)
        for cut in 0..<bytes.count where cut < 29 || (cut - 29) % 20 != 0 {
            #expect(page(Array(bytes[..<cut])) == nil)
            if cut < 29 { #expect(page(Array(bytes[..<cut]), isWhole: false) == nil) }
        }
        #expect(page(bytes, nonce: "00ff0123456789ac") == nil)
        #expect(page([2] + bytes[1...]) == nil)
        #expect(page([1, 3] + bytes[2...]) == nil)
    }
}

@Suite struct EntityCountsReadingTests {
    private let stamp = Stamp(redisHistory: Array("run".utf8), systemIdentifier: 1, timeline: 1, epoch: 3)
    private let marker = EntityMarker(
        nonce: Array("00ff0123456789ab".utf8), tier: .viral,
        counted: CountedChunk(batch: BatchNumber(rawValue: 511 << 44 | 12), part: 90_000), builtAt: 1_800_000_000)

    private func tier(_ text: [UInt8], _ stamp: Stamp) -> EntityTier? {
        text.withUnsafeBytes { EntityMarker.tier($0, stamp: stamp) }
    }

    @Test func `the tier is read from exactly the markers that can be read`() {
        let text = marker.text(stamp: stamp)
        #expect(tier(text, stamp) == .viral)
        var changed: [[UInt8]] = (0..<text.count).map { Array(text[..<$0]) } + [text + Array(":1".utf8), text + [0x3a]]
        for place in text.indices {
            for byte in Array("0:av ".utf8) {
                var other = text
                other[place] = byte
                changed.append(other)
            }
        }
        for text in changed {
            #expect(
                tier(text, stamp) == EntityMarker(ByteCursor(text), stamp: stamp)?.tier,
                "\(String(decoding: text, as: UTF8.self))")
        }
    }

    private func replies(_ entities: [[String?]?]) -> ReplyArena {
        var replies = ReplyArena()
        for fields in entities {
            guard let fields else {
                Array("WRONGTYPE of a key".utf8).withUnsafeBytes { replies.appendText($0, isError: true) }
                continue
            }
            replies.append(.array(fields.count))
            for field in fields {
                guard let field else {
                    replies.append(.null)
                    continue
                }
                Array(field.utf8).withUnsafeBytes { replies.appendText($0, isError: false) }
            }
        }
        return replies
    }

    @Test func `an entity is known as a whole or not at all`() throws {
        let text = String(decoding: marker.text(stamp: stamp), as: UTF8.self)
        var reading = EntityCountsReading(entities: 8, fields: 2, absent: nil)
        let arena = replies([
            [text, "1", "9223372036854775807"], [text, "1", nil], [nil, "1", "2"], nil, [text, "-1", "2"],
            [text, "1", "9223372036854775808"], [text, "", "1"], [text, "0", "0"],
        ])
        try reading.add(arena, at: 0) { _ in stamp }
        #expect(reading.missed == [1, 2, 3, 4, 5, 6])
        #expect(reading.numbers[0..<2] == [1, .max])
        #expect(reading.numbers[14...] == [0, 0])
        #expect(reading.tiers == [.viral, .viral, nil, nil, .viral, .viral, .viral, .viral])

        // Those that were missed are asked for again.
        let again = replies([[text, "5", "6"]] + Array(repeating: [nil, nil, nil], count: 5))
        try reading.add(again, at: 0) {
            $0 == 0 ? stamp : Stamp(redisHistory: [], systemIdentifier: 0, timeline: 0, epoch: 0)
        }
        #expect(reading.missed == [2, 3, 4, 5, 6])
        #expect(reading.numbers[2..<4] == [5, 6])
        // What is gone has no tier any more.
        #expect(reading.tiers == [.viral, .viral, nil, nil, nil, nil, nil, .viral])
        reading.learn([7, 8], of: 6)
        #expect(reading.numbers[12..<14] == [7, 8])
    }

    @Test func `a field that is not there may be a number`() throws {
        var reading = EntityCountsReading(entities: 2, fields: 2, absent: 0)
        let arena = replies([
            [String(decoding: marker.text(stamp: stamp), as: UTF8.self), nil, "4"], [nil, nil, nil],
        ])
        try reading.add(arena, at: 0) { _ in stamp }
        #expect(reading.numbers == [0, 4, -1, -1])
        #expect(reading.missed == [1])
    }

    @Test func `replies of another shape are no counts`() {
        var reading = EntityCountsReading(entities: 2, fields: 1, absent: nil)
        var arena = replies([["x", "y"]])
        let fresh = reading
        #expect(throws: EntityCountsReading.UnexpectedShape.self) { try reading.add(arena, at: 0) { _ in stamp } }
        arena.append(.integer(1))
        reading = fresh
        #expect(throws: EntityCountsReading.UnexpectedShape.self) { try reading.add(arena, at: 0) { _ in stamp } }
    }
}
