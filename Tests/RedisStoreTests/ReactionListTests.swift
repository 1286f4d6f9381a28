import ReactionModel
import RedisStore
import Testing

@Suite struct ReactionListTests {
    private let nonce = Array("00ff0123456789ab".utf8)

    private func reactor(_ version: Int64, _ time: UInt32, _ user: Int64, _ flags: Int32) -> Reactor {
        Reactor(
            position: ReactionPosition(version: Version(rawValue: version), time: time, userID: user), flags: flags)
    }

    private var extremes: [Reactor] {
        [
            reactor(1 << 53 - 1, .max, .max, 0x7fff_ffff), reactor(511 << 44, 1, 0, 1), reactor(5, 7, -1, 3),
            reactor(5, 7, .min, 1), reactor(0, 0, .min + 1, 2),
        ]
    }

    @Test(arguments: [Int32(15), 0xff, 0x100, 0xffff, 0x10000, 0x7fff_ffff])
    func `a list comes back as it was`(allFlags: Int32) {
        let reactors = extremes.map { Reactor(position: $0.position, flags: $0.flags & allFlags) }
        for floor in [nil, reactor(3, 2, -9, 1).position] {
            let list = ReactionList(nonce: nonce, floor: floor, reactors: reactors)
            #expect(ReactionList(list.packed(allFlags: allFlags)[...], nonce: nonce) == list)
        }
    }

    @Test func `eight kinds take 20 bytes a user`() {
        let list = ReactionList(nonce: nonce, reactors: Array(repeating: reactor(1, 1, 1, 1), count: 1000))
        #expect(list.packed(allFlags: 0xff).count == 20_029)
    }

    @Test func `the bytes of positions are in the order of positions`() {
        let sorted = extremes.sorted { $0.position < $1.position }.map {
            Array(ReactionList(nonce: nonce, reactors: [$0]).packed(allFlags: 1)[29..<48])
        }
        #expect(zip(sorted, sorted.dropFirst()).allSatisfy { $0.lexicographicallyPrecedes($1) })
    }

    @Test func `what is no list of this life is absent`() {
        let whole = ReactionList(nonce: nonce, reactors: extremes).packed(allFlags: 15)
        for cut in 0..<whole.count where cut < 29 || (cut - 29) % 20 != 0 {
            #expect(ReactionList(whole[..<cut], nonce: nonce) == nil)
        }
        #expect(ReactionList(whole[...], nonce: Array("00ff0123456789ac".utf8)) == nil)
        #expect(ReactionList(whole[...], nonce: Array("00FF0123456789AB".utf8)) == nil)
        #expect(ReactionList([2] + whole[1...], nonce: nonce) == nil)
        #expect(ReactionList([1, 3] + whole[2...], nonce: nonce) == nil)
    }

    /// What `entity_look.lua` tells of a list.
    private func tally(_ bytes: [UInt8], flagsWidth: Int) -> [Int64] {
        var tally: [Int64] = []
        for place in 1...flagsWidth {
            var times: [UInt8: Int64] = [:]
            for at in stride(from: 29 + 19 + place - 1, to: bytes.count, by: 19 + flagsWidth) {
                times[bytes[at], default: 0] += 1
            }
            for (byte, count) in times { tally += [Int64(place), Int64(byte), count] }
        }
        return tally
    }

    @Test(arguments: [(Int32(15), 1), (0xffff, 2), (0x7fff_ffff, 4)])
    func `users are counted by the bits of their flags`(allFlags: Int32, flagsWidth: Int) throws {
        let stamp = Stamp(redisHistory: [1], systemIdentifier: 1, timeline: 1, epoch: 0)
        let reactors = (0..<500).map {
            reactor(1_000 - $0, 1, $0, Int32(truncatingIfNeeded: $0 &* 7_919_981) & allFlags)
        }
        let bytes = ReactionList(nonce: nonce, reactors: reactors).packed(allFlags: allFlags)
        var look = EntityLook()
        let marker = EntityMarker(
            nonce: nonce, tier: .regular, counted: CountedChunk(batch: BatchNumber(rawValue: 1), part: 0), builtAt: 1)
        look.add("_", marker.text(stamp: stamp), stamp)
        let tally = tally(bytes, flagsWidth: flagsWidth)
        let list = look.list(length: Int64(bytes.count), bytes: Array(bytes.prefix(29)), tally: tally)
        #expect(list.count == 500 && list.list?.reactors == [])
        #expect(look.list(length: Int64(bytes.count), bytes: bytes, tally: tally).list?.reactors == reactors)
        for bit in 0..<32 as Range<Int32> {
            let expected = reactors.count { $0.flags >> bit & 1 == 1 }
            #expect(try #require(list.counts)[Int(bit)] == Int64(expected))
        }
        // Too long to be read, or of another life.
        #expect(look.list(length: 2 << 20, bytes: Array(bytes.prefix(29)), tally: []).counts == nil)
        look.marker?.nonce = Array("ffff0123456789ab".utf8)
        #expect(look.list(length: Int64(bytes.count), bytes: bytes, tally: tally).list == nil)
    }
}

@Suite struct EntityMarkerTests {
    private let stamp = Stamp(redisHistory: Array("run".utf8), systemIdentifier: 1, timeline: 1, epoch: 3)
    private let marker = EntityMarker(
        nonce: Array("00ff0123456789ab".utf8), tier: .viral,
        counted: CountedChunk(batch: BatchNumber(rawValue: 511 << 44 | 12), part: 90_000), builtAt: 1_800_000_000)

    @Test func `a marker comes back as it was`() {
        #expect(EntityMarker(ByteCursor(marker.text(stamp: stamp)), stamp: stamp) == marker)
    }

    /// A longer value would make a hash table of every entity's counts.
    @Test func `the longest marker stays within a listpack`() throws {
        let last = BatchNumber(rawValue: try #require(Version(generation: 511, sequence: 1 << 44 - 1)).rawValue)
        // The time of writing is good for two thousand years.
        let longest = EntityMarker(
            nonce: marker.nonce, tier: .viral, counted: CountedChunk(batch: last, part: .max),
            builtAt: 64_000_000_000)
        let text = longest.text(stamp: stamp)
        #expect(text.count <= EntityMarker.longest)
        #expect(EntityMarker(ByteCursor(text), stamp: stamp) == longest)
    }

    @Test func `a marker of another stamp, or a damaged one, is none`() {
        let text = marker.text(stamp: stamp)
        let other = Stamp(redisHistory: Array("run".utf8), systemIdentifier: 1, timeline: 1, epoch: 4)
        #expect(EntityMarker(ByteCursor(text), stamp: other) == nil)
        for cut in 0..<text.count - 5 { #expect(EntityMarker(ByteCursor(Array(text[..<cut])), stamp: stamp) == nil) }
        #expect(EntityMarker(ByteCursor(text + [0x3a]), stamp: stamp) == nil)
    }
}
