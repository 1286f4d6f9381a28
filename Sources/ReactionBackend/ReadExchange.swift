import CReactionsBoundary
import ClickHouseStore
import ReactionModel
import RedisStore

/// Reads a user's flags: runs the actions of a `ReadMachine` and holds the data that they are about.
final class ReadExchange: TruthExchange {
    /// A map's time to live is refreshed when this long has passed, in seconds.
    private static let touchInterval: Int64 = 86_400
    /// How long other sessions believe that this one is filling, in milliseconds.
    private static let lease: Int64 = 1_000
    /// Ids above which the whole map is fetched in any case; Redis takes no command of more than a million arguments.
    private static let mostFields = 100_000

    private let type: TypeDescription
    private let userID: Int64
    private let ids: [Int64]
    private var machine: ReadMachine
    /// Whether the action waits for its script to be loaded.
    private var isLoadingScripts = false
    /// Nil before the first step.
    private var activity: ReadMachine.Action?

    private var address = UserMapAddress(
        key: [], stamp: Stamp(redisHistory: [], systemIdentifier: 0, timeline: 0, epoch: 0))
    /// Who has answered the read of the map, and on which connection; a fill is offered on no other.
    private var server: RedisLink?
    private var connection: UInt64 = 0
    /// How often the map was looked for again, because its slot had moved.
    private var moves = 0
    private static let mostMoves = 5
    private var map = UserMapReading(unknown: 0)
    private var unknownIDs: [Int64]
    private var nonce: [UInt8] = []
    private var given: GivenTruth?
    private var clickHouse: ClickHouseQuestion?
    private var truth: Truth?
    private var pauseEnd = Deadline(after: 0, from: 0)

    init(_ session: Session, _ request: rx_read_request) throws(Failure) {
        type = try session.type(request.type)
        userID = request.user_id
        let isWholeMap = request.whole_map != 0
        let count = isWholeMap || request.entity_ids == nil ? 0 : request.entity_count
        ids = Array(UnsafeBufferPointer(start: request.entity_ids, count: count))
        unknownIDs = ids
        let source: ReadMachine.Source
        switch request.truth {
        case Int32(bitPattern: RX_TRUTH_NONE.rawValue): source = .none
        case Int32(bitPattern: RX_TRUTH_TABLE.rawValue): source = .table
        case Int32(bitPattern: RX_TRUTH_CLICKHOUSE.rawValue): source = .clickHouse
        default: throw .brokenContract("The read names no known source of truth.")
        }
        machine = ReadMachine(
            ReadMachine.Question(
                isWholeMap: isWholeMap, mayFill: request.may_fill != 0 && request.skip_redis == 0,
                skipsRedis: request.skip_redis != 0, source: source, fillWait: session.settings.fillWait))
        super.init(session)
    }

    override func advance(at now: Int64) -> Step {
        while true {
            guard let activity else {
                self.activity = start(machine.started(), now)
                continue
            }
            switch activity {
            case .openRedis, .readMap, .askMiss, .fillComplete, .fillIDs, .fillTooMany, .touch:
                do throws(Failure) {
                    if let wait = try pollRedis(at: now) { return .wait(wait) }
                    let isLoaded = isLoadingScripts
                    isLoadingScripts = false
                    self.activity = isLoaded ? start(activity, now) : start(try redisAnswered(activity, now), now)
                } catch {
                    self.activity = start(machine.redisFailed(error), now)
                }
            case .askClickHouse:
                do throws(Failure) {
                    if let wait = try pollClickHouse(at: now) { return .wait(wait) }
                    try clickHouse?.add(session.clickHouse.body)
                    if try !askClickHouse(now) { self.activity = start(clickHouseAnswered(), now) }
                } catch {
                    self.activity = start(machine.clickHouseFailed(error), now)
                }
            case .pause:
                if let remaining = pauseEnd.remaining(now) { return .wait(.timer(remaining)) }
                self.activity = start(machine.pauseEnded(), now)
            case .wantTruth:
                guard let given = takeTruth() else { return .wantTruth }
                self.activity = start(truthGiven(given), now)
            case .finish(let outcome):
                finish(outcome)
                return .done
            case .fail(let failure):
                return .failed(failure)
            }
        }
    }

    // MARK: Beginning

    /// Begins the action, or if it cannot begin, what the machine says then.
    private func start(_ action: ReadMachine.Action, _ now: Int64) -> ReadMachine.Action {
        do throws(Failure) {
            try begin(action, now)
            return action
        } catch {
            if case .askClickHouse = action { return start(machine.clickHouseFailed(error), now) }
            return start(machine.redisFailed(error), now)
        }
    }

    private func begin(_ action: ReadMachine.Action, _ now: Int64) throws(Failure) {
        switch action {
        case .openRedis:
            try startRedis { redis throws(Failure) in try redis.open(at: now) }
        case .readMap:
            try startRedis { redis throws(Failure) in
                try redis.send(at: now) { commands in
                    if readsWholeMap {
                        commands.appendReadWholeMap(of: address.key)
                    } else {
                        commands.appendReadFields(ids, of: address.key)
                    }
                }
            }
        case .askMiss:
            try call(at: now) { digests, commands in
                commands.appendMiss(
                    address, digest: digests.miss, nonce: makeNonce(), ttl: type.userMapTTL,
                    maximumAge: type.userMapMaximumAge, leaseMilliseconds: Self.lease, limit: type.userMapLimit)
            }
        case .touch:
            try call(at: now) { digests, commands in
                commands.appendTouch(
                    address, digest: digests.touch, nonce: nonce, ttl: type.userMapTTL,
                    maximumAge: type.userMapMaximumAge)
            }
        case .fillComplete, .fillIDs, .fillTooMany:
            guard let server, server.serial == connection, server.isReady else {
                throw .redisUnreachable("The connection on which the map was read is gone.")
            }
            try call(at: now) { digests, commands in appendFill(action, digests.fill, to: &commands) }
        case .pause(let milliseconds):
            pauseEnd = Deadline(after: milliseconds, from: now)
        case .wantTruth(let scope):
            if given == nil { count(unknown: machine.question.isWholeMap ? 1 : unknownIDs.count) }
            want(ids: scope == .wholeUser ? nil : unknownIDs, limit: type.userMapLimit)
        case .askClickHouse(let scope):
            let query = TruthQuery(entityType: type.name, kinds: type.kinds, userID: userID, floor: given?.floor ?? 0)
            let wantedIDs = scope == .wholeUser ? nil : unknownIDs
            clickHouse = ClickHouseQuestion(query, flags: type.flags, ids: wantedIDs, limit: type.userMapLimit)
            guard try askClickHouse(now) else { throw .brokenContract("There is nothing to ask ClickHouse for.") }
        case .finish, .fail:
            break
        }
    }

    /// Where HGETALL is chosen over HMGET: it is the cheaper one from a number of ids on, if the map is small.
    private var readsWholeMap: Bool {
        let threshold = session.settings.hashThreshold
        return machine.question.isWholeMap || ids.count >= Self.mostFields || threshold > 0 && ids.count >= threshold
    }

    /// Calls a script where the map was read, or has the scripts loaded there first: then the action is begun again.
    private func call(
        at now: Int64, _ compose: (ScriptDigests, inout CommandBuffer) -> Void
    ) throws(Failure) {
        guard let server else { throw .brokenContract("A script was called before the map was read.") }
        try startRedis { redis throws(Failure) in
            guard let digests = server.digests, server.isReady else {
                isLoadingScripts = true
                return try redis.open(server, at: now, withScripts: true)
            }
            try redis.send(to: server, usesScripts: true, at: now) { compose(digests, &$0) }
        }
    }

    private func appendFill(_ action: ReadMachine.Action, _ digest: [UInt8], to commands: inout CommandBuffer) {
        var entries: [Truth.Entry] = []
        if let truth, action == .fillComplete { entries = truth.entries }
        if let truth, action == .fillIDs {
            entries = unknownIDs.prefix(Int(max(type.userMapLimit, 0))).map(truth.entry)
        }
        commands.beginFill(
            address, digest: digest, nonce: nonce, floor: given?.floor ?? 0,
            state: action == .fillComplete ? .complete : .partial, fields: entries.count)
        var field: [UInt8] = []
        for entry in entries {
            field.removeAll(keepingCapacity: true)
            truth?.appendField(of: entry, to: &field)
            commands.append(entry.entityID)
            commands.append(field)
        }
    }

    /// Returns whether there was something left to ask.
    private func askClickHouse(_ now: Int64) throws(Failure) -> Bool {
        guard let query = clickHouse?.next() else { return false }
        try startClickHouse { link throws(Failure) in try link.ask(query, at: now) }
        if !machine.question.skipsRedis { session.tally.counters.clickhouse_fallbacks &+= 1 }
        return true
    }

    // MARK: Answers

    private func redisAnswered(_ activity: ReadMachine.Action, _ now: Int64) throws(Failure) -> ReadMachine.Action {
        let redis = session.redis
        switch activity {
        case .openRedis:
            address.key = type.userMapKey(of: userID, session.keys)
            return machine.redisOpened()
        case .readMap:
            if let server = redis.server(of: 0) {
                self.server = server
                connection = server.serial
                address.stamp = type.stamp(redisHistory: server.identity?.history ?? [])
            }
            return machine.mapRead(try readMap(redis.replies, at: redis.answer))
        case .askMiss:
            if let error = redis.replies.error(at: redis.answer) {
                guard isRedirection(error) else { throw .redis(error: error) }
                return machine.mapMoved()
            }
            guard let miss = UserMapMissAnswer(redis.replies, at: redis.answer) else {
                throw .redisNonsense("The script user_map_miss answered something else.")
            }
            nonce = miss.nonce
            let size: ReadMachine.MapSize =
                switch miss.state {
                case .new: .new
                case .complete: .complete
                case .partial: .partial
                }
            return machine.missAnswered(size, isGranted: miss.isGranted, at: now)
        case .touch:
            return machine.touched()
        default:
            if redis.replies[redis.answer] == .integer(1) {
                session.tally.counters.fills &+= 1
            } else {
                session.tally.counters.fills_refused &+= 1
            }
            return machine.filled()
        }
    }

    /// Whether the map is to be looked for elsewhere.
    private func isRedirection(_ error: ArraySlice<UInt8>) -> Bool {
        guard moves < Self.mostMoves, let server, Redirection(error, from: server.place) != nil else { return false }
        moves += 1
        return true
    }

    private func readMap(_ replies: ReplyArena, at position: Int) throws(Failure) -> ReadMachine.Finding {
        do throws(UserMapReading.Problem) {
            if machine.question.isWholeMap {
                map = try UserMapReading(wholeMapOf: replies, at: position, stamp: address.stamp)
            } else if readsWholeMap {
                map = try UserMapReading(ids: ids, of: replies, at: position, stamp: address.stamp)
            } else {
                map = try UserMapReading(fields: ids.count, of: replies, at: position, stamp: address.stamp)
            }
        } catch {
            if let text = replies.error(at: position) { throw .redis(error: text) }
            throw .redisNonsense("The map of a user does not have the form of one.")
        }
        if machine.question.isWholeMap {
            if map.marker?.state == .partial { return .tooMany }
            guard map.marker?.state == .complete, map.unknownCount == 0 else { return .gaps }
        } else {
            guard map.unknownCount == 0 else {
                unknownIDs = map.unknownIDs(of: ids)
                return .gaps
            }
        }
        count(unknown: 0)
        guard let marker = map.marker else { return .everything(isTouchDue: false) }
        nonce = marker.nonce
        return .everything(isTouchDue: marker.touchedAt < unixSeconds() - Self.touchInterval)
    }

    private func truthGiven(_ given: GivenTruth) -> ReadMachine.Action {
        self.given = given
        if machine.question.source == .table {
            truth = Truth(tableIDs: given.entityIDs, flags: given.flags, outbox: given.outbox, floor: given.floor)
        }
        return machine.truthGiven(overflows: given.overflows)
    }

    private func clickHouseAnswered() -> ReadMachine.Action {
        let truth = Truth(rows: clickHouse?.rows ?? [], outbox: given?.outbox ?? [], floor: given?.floor ?? 0)
        let overflows = clickHouse?.isCutOff == true || truth.reactionCount > Int(type.userMapLimit)
        self.truth = truth
        return machine.clickHouseAnswered(overflows: overflows)
    }

    private func finish(_ outcome: ReadMachine.Outcome) {
        guard machine.question.isWholeMap else {
            if map.unknownCount == 0, map.flags.count == ids.count { return answer(flags: map.flags, isComplete: true) }
            let known =
                map.flags.count == ids.count ? map.flags : Array(repeating: UserMapReading.unknown, count: ids.count)
            let flags = zip(ids, known).map { id, flags in
                flags == UserMapReading.unknown ? truth?.entry(of: id).flags ?? flags : flags
            }
            return answer(flags: flags, isComplete: true)
        }
        guard outcome == .answered else { return answer(flags: [], isComplete: false) }
        if let entries = truth?.entries.filter({ $0.flags != 0 }) {
            answer(ids: entries.map(\.entityID), flags: entries.map(\.flags), isComplete: true)
        } else {
            let known = zip(map.entityIDs, map.flags).filter { $0.1 != 0 }
            answer(ids: known.map(\.0), flags: known.map(\.1), isComplete: true)
        }
    }

    /// A whole map counts as one.
    private func count(unknown: Int) {
        let asked = machine.question.isWholeMap ? 1 : ids.count
        miss(unknown)
        session.tally.counters.misses &+= Int64(unknown)
        session.tally.counters.hits &+= Int64(asked - unknown)
    }
}
