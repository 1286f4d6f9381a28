import ReactionModel
import Testing

@Suite struct StampTests {
    static let runID = Array("5d41402abc4b2a76b9719d911017c592aabbccdd".utf8)

    func stamp(
        _ runID: [UInt8] = runID, system: UInt64 = 7_000_000_000_000_000_001, timeline: UInt32 = 1, epoch: Int64 = 0
    ) -> String {
        String(
            decoding: Stamp(redisHistory: runID, systemIdentifier: system, timeline: timeline, epoch: epoch).digits,
            as: UTF8.self)
    }

    @Test func `A stamp is 16 hexadecimal digits`() {
        for epoch in Int64(-50)...50 {
            let digits = stamp(epoch: epoch)
            #expect(digits.utf8.count == 16)
            #expect(digits.allSatisfy { $0.isHexDigit && !$0.isUppercase })
        }
    }

    /// Agents and backends of different builds share maps, so the digits may never change.
    @Test func `A stamp is the same in every build`() {
        #expect(stamp() == "125a4d346d096fd2")
        #expect(stamp([], system: 0, timeline: 0, epoch: 0) == "81d23fd7003c2305")
    }

    @Test func `Each part of a stamp changes it`() {
        var reversed = Self.runID
        reversed.reverse()
        let stamps = [
            stamp(), stamp(reversed), stamp([]), stamp(system: .max), stamp(timeline: 2), stamp(epoch: 1),
            stamp(epoch: -1),
            stamp(epoch: .max), stamp(epoch: .min),
        ]
        #expect(Set(stamps).count == stamps.count)
    }
}
