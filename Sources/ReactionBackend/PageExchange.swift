import CReactionsBoundary
import ClickHouseStore

/// One page of a user's reactions from ClickHouse under the outbox.
///
/// ClickHouse is asked for as many entities more than the page holds as the outbox speaks of, since each of those may fall out of
/// the page; and for those of the outbox themselves, which may come in.
final class PageExchange: TruthExchange {
    private enum State {
        /// Can transition to: asking.
        case awaitingTruth
        /// Can transition to: answered.
        case asking
        case answered
    }

    private let type: TypeDescription
    private let userID: Int64
    private let mask: Int32
    private let after: Int64
    private let limit: Int
    private var state = State.awaitingTruth
    private var outbox: [rx_event] = []
    private var floor: Int64 = 0

    init(
        _ session: Session, _ type: UnsafePointer<rx_type>?, userID: Int64, mask: Int32, after: Int64, limit: Int32
    ) throws(Failure) {
        self.type = try session.type(type)
        self.userID = userID
        self.mask = mask & self.type.flags
        self.after = after
        self.limit = Int(max(limit, 0))
        super.init(session)
        want(ids: nil, limit: limit)
    }

    override func advance(at now: Int64) -> Step {
        do throws(Failure) {
            while true {
                switch state {
                case .awaitingTruth:
                    guard mask != 0, limit > 0 else {
                        answer(flags: [], isComplete: true)
                        state = .answered
                        continue
                    }
                    guard let given = takeTruth() else { return .wantTruth }
                    floor = given.floor
                    outbox = given.outbox.filter { $0.version > floor && $0.entity_id > after }
                    let query = makeQuery()
                    try startClickHouse { link throws(Failure) in try link.ask(query, at: now) }
                    // Whoever asks for a page of the truth has seen that the map does not hold all of the user.
                    session.tally.counters.clickhouse_fallbacks &+= 1
                    state = .asking
                case .asking:
                    if let wait = try pollClickHouse(at: now) { return .wait(wait) }
                    try finish(session.clickHouse.body)
                    state = .answered
                case .answered:
                    return .done
                }
            }
        } catch {
            return .failed(error)
        }
    }

    private func makeQuery() -> [UInt8] {
        let others = Set(outbox.map(\.entity_id)).sorted()
        return TruthQuery(entityType: type.name, kinds: type.kinds, userID: userID, floor: floor)
            .page(mask: mask, after: after, count: limit + others.count, others: others)
    }

    private func finish(_ body: [UInt8]) throws(Failure) {
        guard let rows = TruthRow.rows(body, flags: type.flags) else {
            throw .clickHouseNonsense("The answer does not have the form of the query.")
        }
        let page = Truth(rows: rows, outbox: outbox, floor: floor).entries
            .filter { $0.entityID > after && $0.flags & mask != 0 }.prefix(limit)
        answer(ids: page.map(\.entityID), flags: page.map(\.flags), isComplete: true)
    }
}
