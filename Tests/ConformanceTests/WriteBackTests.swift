import ClickHouseStore
import Pipeline
import ReactionModel
import TestSupport
import Testing

@testable import ReactionAgent

/// What a frozen table has missed, as either engine tells it.
@Suite struct WriteBackTests {
    private func written(
        _ fixture: Fixture, above version: Int64, after: Int64, through: Int64, usersDone: Int64? = nil
    ) async throws -> (steps: [[Int64]], planned: Int64, users: [Int64?]) {
        let writeBack = WriteBack(
            type: Fixture.image, stopVersion: Version(rawValue: version), after: BatchNumber(rawValue: after),
            through: BatchNumber(rawValue: through), usersDone: usersDone)
        var answer: (steps: [[Int64]], planned: Int64, users: [Int64?]) = ([], 0, [])
        try await writeBack.run(
            BackfillStore(fixture.settings), planned: { answer.planned = $0 },
            write: { page, user in
                answer.users.append(user)
                // Times come in whole seconds from a server that has no others.
                answer.steps += page.steps.map {
                    [
                        $0.userID, $0.entityID, Int64($0.setMask), Int64($0.clearMask),
                        ($0.createdAt - Event.epoch + 500_000) / 1_000_000,
                    ]
                }
            })
        return answer
    }

    @Test(arguments: Engine.allCases)
    func onlyWhatChangedAboveTheVersionInTheBatchesIsWritten(_ engine: Engine) async throws {
        let fixture = try await Fixture(engine)
        let catalog = Fixture.catalog
        // Before the freeze, then two batches behind it; of another type, too.
        try await fixture.sink.insert(
            Chunk(1, [.change(10, set: 3), .change(11, user: 8, set: 1)]), catalog: catalog)
        try await fixture.sink.insert(
            Chunk(2, [.change(21, set: 4, clear: 1), .change(22, user: 9, set: 8), .change(23, set: 1, type: 2)]),
            catalog: catalog)
        try await fixture.sink.insert(
            Chunk(
                3, [.change(31, user: 9, clear: 8), .change(32, set: 1), .change(33, user: -5, entity: .max, set: 2)]),
            catalog: catalog)
        let first = try await written(fixture, above: 20, after: 0, through: 2)
        #expect(first.steps == [[7, 42, 0, 1, 21], [7, 42, 4, 0, 21], [9, 42, 8, 0, 22]])
        #expect(first.planned == 2)
        #expect(first.users == [9])
        let both = try await written(fixture, above: 20, after: 0, through: 3)
        // Taken away and set again: cleared first, and of the new time. What came and went is cleared all the same.
        #expect(
            both.steps == [
                [-5, .max, 2, 0, 33], [7, 42, 0, 1, 21], [7, 42, 4, 0, 21], [7, 42, 1, 0, 32], [9, 42, 0, 8, 31],
            ])
        let second = try await written(fixture, above: 20, after: 2, through: 3)
        #expect(second.steps == [[-5, .max, 2, 0, 33], [7, 42, 1, 0, 32], [9, 42, 0, 8, 31]])
        // Users that were done before are left out, and nothing is left when all are.
        #expect(
            try await written(fixture, above: 20, after: 0, through: 3, usersDone: 7).steps == [[9, 42, 0, 8, 31]])
        #expect(try await written(fixture, above: 20, after: 0, through: 3, usersDone: 9).steps.isEmpty)
        #expect(try await written(fixture, above: 33, after: 0, through: 3).steps.isEmpty)
    }
}
