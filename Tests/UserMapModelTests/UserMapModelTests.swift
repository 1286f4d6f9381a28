import RedisStore
import Testing

@Suite struct UserMapModelTests {
    /// Each in a Lua of its own, so that they run side by side: 200,000 schedules together.
    @Test(arguments: stride(from: 1, through: 200_000, by: 25_000).map { $0..<$0 + 25_000 })
    func `A map at rest answers the truth or asks for it`(seeds: Range<Int>) throws {
        let model = try Model()
        let failure = try model.firstFailure(seeds: seeds)
        #expect(failure == nil)
        for event in [
            "answers", "unknowns", "fills", "refusals", "merges", "complete", "partial", "crashes", "removals",
            "moves",
        ] {
            #expect(model.count(of: event) > 1000, "\(event) hardly ever happened")
        }
    }

    static let omissions: [Model.Omission] =
        [
            "stamp", "nonce", "absent is unknown", "marks of the unknown", "newer wins", "floor of an apply",
            "floor of a fill", "older fill", "floor never falls", "another stamp",
        ].map { .line($0) }
        + [
            "apply what is flushed", "fill what is flushed", "bound of the floor",
            "floor of the snapshot", "marks per kind", "outbox versions", "un-reactions", "snapshot after the nonce",
            "outbox before the archive", "outbox above the floor", "removals after the confirmation",
            "raise after the confirmation",
        ].map { .behaviour($0) }

    @Test(arguments: omissions)
    func `Without one of the rules some map errs`(omission: Model.Omission) throws {
        let model = try Model(without: omission)
        #expect(try model.firstFailure(seeds: 1..<50_001) != nil)
    }

    @Test func `Every rule in the scripts is one that is taken away`() {
        let marked = Script.ofUserMaps.flatMap { script in
            Model.text(of: script).split(separator: "\n").compactMap { line in
                line.firstRange(of: "-- rule: ").map { String(line[$0.upperBound...]) }
            }
        }
        let taken: [String] = Self.omissions.compactMap { if case .line(let rule) = $0 { rule } else { nil } }
        #expect(Set(marked) == Set(taken))
    }
}
