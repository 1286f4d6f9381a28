import CReactionsBoundary
import ClickHouseStore
import ReactionModel
import RedisStore

/// Reads numbers of a page of entities in one pipelined round trip; what Redis does not have the truth is asked for in one query.
final class CountsExchange: EntityExchange {
    enum Subject {
        /// A number for each kind.
        case kinds
        /// The users who have any kind.
        case users
        /// An estimate of the users who have ever had one, which only ClickHouse knows.
        case everReacted
    }

    private let subject: Subject
    private let ids: [Int64]
    private var reading: EntityCountsReading
    /// Positions in `ids` that ClickHouse is yet to be asked for.
    private var unasked: ArraySlice<Int> = []
    private var asked: ArraySlice<Int> = []
    private var hasAsked = false

    init(_ session: Session, _ request: rx_counts_request) throws(Failure) {
        let type = try session.type(request.type)
        switch request.subject {
        case Int32(bitPattern: RX_COUNT_KINDS.rawValue): subject = .kinds
        case Int32(bitPattern: RX_COUNT_USERS.rawValue): subject = .users
        case Int32(bitPattern: RX_COUNT_EVER_REACTED.rawValue): subject = .everReacted
        default: throw .brokenContract("The read names nothing that can be counted.")
        }
        ids = Array(
            UnsafeBufferPointer(
                start: request.entity_ids, count: request.entity_ids == nil ? 0 : request.entity_count))
        reading = EntityCountsReading(
            entities: ids.count, fields: subject == .kinds ? type.kinds.count : 1,
            absent: subject == .kinds ? 0 : nil)
        super.init(session, type, Self.question(session, readsRedis: subject != .everReacted))
    }

    private var fields: Int { subject == .kinds ? type.kinds.count : 1 }

    override func compose(_ commands: inout CommandBuffer) {
        let arguments = subject == .kinds ? type.kindArguments : type.userArguments
        commands.reserve(reading.missed.count &* (arguments.count &+ 96))
        for position in reading.missed {
            let key = session.keys.key(
                type.entityKey, id: ids[position], shardCount: type.shardCount, suffix: KeySpace.countsSuffix)
            commands.appendReadCounts(of: key, fields: fields, arguments: arguments)
        }
    }

    override func takeReplies() throws(Failure) -> Finding {
        let before = reading.missed.count
        let onlyStamp = session.redis.isCluster ? nil : stamp(of: 0)
        do throws(EntityCountsReading.UnexpectedShape) {
            try reading.add(session.redis.replies, at: session.redis.answer) { onlyStamp ?? stamp(of: $0) }
        } catch {
            throw .unexpected(session.redis.replies, from: session.redis.answer, count: before)
        }
        if reading.missed.isEmpty { return .some(.everything) }
        // The users of a viral entity are a number that only ClickHouse may know: the agent has nothing to install.
        let isThere = subject == .users && reading.missed.allSatisfy { reading.tiers[$0] != nil }
        return .some(isThere ? .rest : .gaps)
    }

    override var missed: [Int64] { reading.missed.map { ids[$0] } }

    override func countLook(in counters: inout rx_counters) {
        var missed = reading.missed[...]
        for (position, tier) in reading.tiers.enumerated() {
            let isMiss = missed.first == position
            if isMiss { missed.removeFirst() }
            counters.countEntity(tier, isHit: !isMiss)
        }
    }

    // MARK: The truth

    /// Takes the table's numbers of what is missed, entity by entity.
    func learn(_ numbers: UnsafeBufferPointer<Int64>) {
        for (index, position) in reading.missed.enumerated() {
            let first = index &* fields
            guard first &+ fields <= numbers.count else { return }
            reading.learn(numbers[first..<first &+ fields], of: position)
        }
    }

    override func query(asOf batch: BatchNumber) -> String {
        if !hasAsked { unasked = reading.missed[...] }
        hasAsked = true
        asked = unasked.prefix(EntityQuery.idsPerQuery)
        unasked = unasked.dropFirst(asked.count)
        let query = EntityQuery(type: type.entityType, asOf: batch)
        let entities = asked.map { ids[$0] }
        return switch subject {
        case .kinds: query.counts(of: entities)
        case .users: query.users(of: entities)
        case .everReacted: query.everReacted(of: entities)
        }
    }

    /// Nobody has reacted to an entity that ClickHouse does not answer.
    override func take(_ answer: [UInt8]) throws(Failure) -> Bool {
        var found: [Int64: [Int64]] = [:]
        let none = Array(repeating: 0 as Int64, count: fields)
        if subject == .kinds {
            guard let counts = EntityQuery.counts(answer) else { throw .otherForm }
            for count in counts {
                guard let kind = type.kinds.firstIndex(where: { $0.flag == count.flag }) else { continue }
                guard count.count >= 0 else { throw .belowZero }
                found[count.entityID, default: none][kind] = count.count
            }
        } else {
            guard let numbers = EntityQuery.numbers(answer) else { throw .otherForm }
            for entity in numbers { found[entity.entityID] = [entity.number] }
        }
        for position in asked { reading.learn(found[ids[position]] ?? none, of: position) }
        return !unasked.isEmpty
    }

    // MARK: The answer

    /// Safe because: C has room for a number of each field of each entity, and for a tier of each entity, or gives nil.
    func copy(_ numbers: UnsafeMutablePointer<Int64>?, _ tiers: UnsafeMutablePointer<UInt8>?) {
        reading.numbers.withUnsafeBufferPointer { source in
            if let start = source.baseAddress { numbers?.update(from: start, count: source.count) }
        }
        guard let tiers else { return }
        for (index, tier) in reading.tiers.enumerated() { tiers[index] = tier?.rawValue ?? 0 }
    }
}
