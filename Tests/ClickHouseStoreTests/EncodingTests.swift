import ClickHouseStore
import ReactionModel
import Testing

@Suite struct ErrorDispositionTests {
    @Test(arguments: [33, 241, 243, 252, 216, 210, 159, 999, 123_456])
    func aPassingTroubleIsNotTheRowsFault(_ code: Int) {
        #expect(ServerFailure(status: 500, code: code) == .passing)
    }
}
