import CReactionsBoundary
import ClickHouseStore
import ReactionModel
import RedisStore

/// Reads one page of those who have reacted to an entity, newest first: from the packed list in Redis as far as that reaches, from there
/// on from ClickHouse.
///
/// A page that follows another never shows a state older than the one before it, or it would show somebody twice who has moved to the
/// front in between. So a page says how far the counting had come, and the next one takes a list only if it has come as far, and asks
/// ClickHouse as of no earlier batch.
final class ReactorsExchange: EntityExchange {
    /// Of ClickHouse: the first window is of so many events, of which some are no more, and some of the same users. Each further one is
    /// four times as large, and the last one as large as may be: who is not found in these is rare.
    private static let leastWindow = 200
    private static let mostWindows = 4

    private enum Question {
        /// The newest events below where the last one has ended.
        case window
        /// The states of the users of these events.
        case states(EntityQuery.Page)
        /// Who has ever reacted with one of the kinds: of a rare kind they are few.
        case users
        /// All events of the entity, or of these users, since the windows were not enough.
        case whole([Int64]?)
    }

    private let entityID: Int64
    private let mask: Int32
    private let limit: Int
    private let bound: ReactionPosition?
    private let seen: CountedChunk
    private var readsWholeList: Bool
    private var isKnown = false
    private var tier: EntityTier?
    private var isAnswered = false
    private(set) var reactors: [Reactor] = []

    private var question = Question.window
    private var windows = 0
    private var askedRows = leastWindow
    /// Everybody above is known; nil: nobody yet.
    private var reached: ReactionPosition?
    private var counted = CountedChunk(batch: BatchNumber(rawValue: 0), part: 0)

    init(_ session: Session, _ request: rx_reactors_request) throws(Failure) {
        let type = try session.type(request.type)
        entityID = request.entity_id
        mask = request.mask
        limit = Int(max(request.limit, 0))
        seen = CountedChunk(batch: BatchNumber(rawValue: request.seen_batch), part: request.seen_part)
        bound =
            request.has_bound == 0
            ? nil
            : ReactionPosition(
                version: Version(rawValue: request.bound.version), time: request.bound.time,
                userID: request.bound.user_id)
        readsWholeList = bound != nil || mask != type.flags
        super.init(session, type, Self.question(session))
    }

    // MARK: Redis

    /// Only one of the lists is there; the other is the other tier's. The marker before them says what they show at least, the one behind
    /// them what they show at most.
    override func compose(_ commands: inout CommandBuffer) {
        func key(_ suffix: StaticString) -> [UInt8] {
            session.keys.key(type.entityKey, id: entityID, shardCount: type.shardCount, suffix: suffix)
        }
        func appendMarker() {
            commands.begin("HMGET", arguments: 2)
            commands.append(key: key(KeySpace.countsSuffix))
            commands.append(EntityMarker.field)
        }
        appendMarker()
        for suffix in [KeySpace.reactionsSuffix, KeySpace.sampleSuffix] {
            commands.begin("GETRANGE", arguments: 3)
            commands.append(key: key(suffix))
            commands.append(0 as Int64)
            commands.append(readsWholeList ? -1 : Int64(prefix &- 1))
        }
        appendMarker()
    }

    private var prefix: Int { ReactionList.width(reactors: limit, allFlags: type.flags) }

    override func takeReplies() throws(Failure) -> Finding {
        let (markers, lists) = try replies()
        isKnown = false
        tier = markers.last?.tier
        guard markers.count == 2, let first = markers.first, let last = markers.last, first.nonce == last.nonce else {
            return .some(.gaps)
        }
        guard first.counted >= seen else {
            isKnown = true
            return .some(.rest)
        }
        for list in lists {
            let isWhole = readsWholeList || list.count < prefix
            guard
                let page = ReactionListPage(
                    list, isWhole: isWhole, nonce: last.nonce, below: bound, mask: mask, limit: limit)
            else { continue }
            if page.end == .cut {
                readsWholeList = true
                return .inPart
            }
            isKnown = true
            reactors = page.reactors
            counted = last.counted
            if page.end == .floor { return .some(.rest) }
            isAnswered = true
            return .some(.everything)
        }
        return .some(.gaps)
    }

    /// What was there: of two markers and two lists. A key of another type is not ours.
    private func replies() throws(Failure) -> (markers: [EntityMarker], lists: [ArraySlice<UInt8>]) {
        let replies = session.redis.replies
        let start = session.redis.answer
        var position = start
        var markers: [EntityMarker] = []
        var lists: [ArraySlice<UInt8>] = []
        for command in 0..<4 {
            switch replies[position] {
            case .array(1):
                if case .text(let range) = replies[position &+ 1],
                    let marker = EntityMarker(replies.cursor(range), stamp: stamp(of: command))
                {
                    markers.append(marker)
                }
            case .text: lists.append(replies.text(at: position))
            case .error where replies.error(at: position)?.starts(with: "WRONGTYPE".utf8) == true: break
            default: throw .unexpected(replies, from: start, count: 4)
            }
            position = replies.position(after: position)
        }
        return (markers, lists)
    }

    override func countLook(in counters: inout rx_counters) {
        counters.countEntity(tier, isHit: isAnswered)
    }

    override var missed: [Int64] { [entityID] }
    override var wanted: [Int64] { isKnown ? [] : missed }

    // MARK: ClickHouse

    override func query(asOf given: BatchNumber) -> String {
        let batch = max(given, seen.batch, counted.batch)
        counted = CountedChunk(batch: batch, part: .max)
        let query = EntityQuery(type: type.entityType, asOf: batch)
        switch question {
        case .window:
            if windows == 0 { reached = reactors.last?.position ?? bound }
            windows &+= 1
            askedRows = windows == 1 ? max((limit &- reactors.count) &* 2, Self.leastWindow) : askedRows &* 4
            askedRows = min(askedRows, EntityQuery.idsPerQuery)
            return query.candidates(of: entityID, below: reached, limit: askedRows)
        case .states(let page):
            return query.reactors(among: page.users, of: entityID)
        case .users:
            return query.users(of: entityID, everWith: mask)
        case .whole(let users):
            return query.page(
                of: entityID, mask: mask, among: users, below: reached, limit: limit &- reactors.count)
        }
    }

    override func take(_ answer: [UInt8]) throws(Failure) -> Bool {
        guard let rows = EntityQuery.rows(answer) else { throw .otherForm }
        switch question {
        case .window:
            let page = EntityQuery.Page(candidates: rows, limit: askedRows)
            question = .states(page)
            return !page.users.isEmpty
        case .states(let page):
            add(page.reactors(rows, below: reached))
            reached = page.floor
            question = windows < Self.mostWindows ? .window : mask == type.flags ? .whole(nil) : .users
            return page.floor != nil && reactors.count < limit
        case .users:
            question = .whole(rows.count > EntityQuery.idsPerQuery ? nil : rows.map(\.reactor.position.userID))
            return !rows.isEmpty
        case .whole:
            add(rows.map(\.reactor))
            return false
        }
    }

    private func add(_ more: [Reactor]) {
        let room = limit &- reactors.count
        reactors += more.lazy.filter { [mask] in $0.flags & mask != 0 }.prefix(max(room, 0))
    }

    // MARK: The answer

    var result: rx_reactors_result {
        rx_reactors_result(count: reactors.count, seen_batch: counted.batch.rawValue, seen_part: counted.part)
    }

    /// Safe because: C has room for `result.count` reactors.
    func copy(_ place: UnsafeMutablePointer<rx_reactor>?) {
        guard let place else { return }
        for (index, reactor) in reactors.enumerated() {
            place[index] = rx_reactor(
                position: rx_position(
                    version: reactor.position.version.rawValue, user_id: reactor.position.userID,
                    time: reactor.position.time), flags: reactor.flags)
        }
    }
}
