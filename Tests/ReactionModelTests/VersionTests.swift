import ReactionModel
import Testing

@Suite struct VersionTests {
    @Test(arguments: [(0, 0), (0, 1), (1, 0), (7, 42), (511, (1 << 44) - 1)] as [(Int64, Int64)])
    func `A version is its generation and its sequence number`(generation: Int64, sequence: Int64) throws {
        let version = try #require(Version(generation: generation, sequence: sequence))
        #expect(version.generation == generation)
        #expect(version.sequence == sequence)
        #expect(version.rawValue == generation * 17_592_186_044_416 + sequence)
    }

    @Test(arguments: [(-1, 0), (512, 0), (0, -1), (0, 1 << 44), (Int64.max, 0), (0, Int64.min)] as [(Int64, Int64)])
    func `What does not fit is no version`(generation: Int64, sequence: Int64) {
        #expect(Version(generation: generation, sequence: sequence) == nil)
    }

    @Test func `A later generation is above every sequence number of an earlier one`() throws {
        let last = try #require(Version(generation: 3, sequence: (1 << 44) - 1))
        let first = try #require(Version(generation: 4, sequence: 0))
        #expect(last < first)
        #expect(last.rawValue + 1 == first.rawValue)
        #expect(Version.zero < last)
    }

    @Test func `Every version is exact in a Lua number`() throws {
        let last: Int64 = (1 << Version.sequenceBits) - 1
        let newest = try #require(Version(generation: Version.maximumGeneration, sequence: last))
        #expect(Int64(exactly: Double(newest.rawValue)) == newest.rawValue)
        #expect(newest.rawValue < 1 << 53)
    }
}

@Suite struct FlagsTests {
    @Test(
        arguments: [
            (0, 1, 0, 1), (1, 0, 1, 0), (3, 4, 1, 6), (5, 0, 0, 5), (0, 0, 2, 0), (2, 2, 2, 2),
            (Int32.max, 0, 1, Int32.max - 1),
        ] as [(Int32, Int32, Int32, Int32)])
    func `An event sets and clears bits, and a bit in both masks ends set`(
        before: Int32, set: Int32, clear: Int32, after: Int32
    ) {
        #expect(before.applying(setMask: set, clearMask: clear) == after)
    }
}
