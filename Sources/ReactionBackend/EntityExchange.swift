import CReactionsBoundary
import ClickHouseStore
import ReactionModel
import RedisStore

/// A read of entities: runs the actions of an `EntityReadMachine`. What exactly is read its kinds say.
class EntityExchange: Exchange {
    /// How long installs are not waited for after it was waited for one in vain, in milliseconds.
    private static let patience: Int64 = 5_000

    enum Given {
        /// The truth's answer has been taken over.
        case answer
        /// The truth is what ClickHouse says as of a batch.
        case clickHouse(BatchNumber)
    }

    enum Finding {
        case some(EntityReadMachine.Finding)
        /// More is to be read first.
        case inPart
    }

    let type: TypeDescription
    private var machine: EntityReadMachine
    /// Nil before the first step.
    private var activity: EntityReadMachine.Action?
    private var pauseEnd = Deadline(after: 0, from: 0)
    private var given: Given?
    private var batch = BatchNumber(rawValue: 0)
    private var isLookCounted = false
    private var lent: LentArray<Int64>?

    init(_ session: Session, _ type: TypeDescription, _ question: EntityReadMachine.Question) {
        self.type = type
        machine = EntityReadMachine(question)
        super.init(session)
    }

    static func question(
        _ session: Session, readsRedis: Bool = true, asksTruth: Bool = true
    ) -> EntityReadMachine.Question {
        let waits = session.installsAbsent.remaining(monotonicMilliseconds()) == nil
        return EntityReadMachine.Question(
            readsRedis: readsRedis, asksTruth: asksTruth, fillWait: waits ? session.settings.fillWait : 0)
    }

    // MARK: What is read

    /// Appends the commands that read what is not known yet.
    func compose(_ commands: inout CommandBuffer) {}

    /// Takes the replies to them.
    func takeReplies() throws(Failure) -> Finding { .some(.gaps) }

    /// Of what the server keeps that has answered a command.
    final func stamp(of command: Int) -> Stamp {
        type.stamp(redisHistory: session.redis.server(of: command)?.identity?.history ?? [])
    }

    /// The entities that Redis does not know.
    var missed: [Int64] { [] }

    /// What the truth is wanted of: `missed`, or nothing if Redis knows the entity, but not all of it.
    var wanted: [Int64] { missed }

    /// Counts each entity that Redis was asked for, by what Redis had of it.
    func countLook(in counters: inout rx_counters) {}

    /// The next query to ClickHouse, with its format.
    func query(asOf batch: BatchNumber) -> String { "" }

    /// Takes the answer. Returns whether there is another query.
    func take(_ answer: [UInt8]) throws(Failure) -> Bool { false }

    // MARK: The truth

    final func lendWanted() -> LentArray<Int64> {
        let ids = lent ?? LentArray(wanted)
        lent = ids
        return ids
    }

    final func give(_ given: Given) {
        self.given = given
    }

    // MARK: The course

    override func advance(at now: Int64) -> Step {
        while true {
            guard let activity else {
                self.activity = start(machine.started(), now)
                continue
            }
            do throws(Failure) {
                switch activity {
                case .openRedis, .read, .want:
                    if let wait = try pollRedis(at: now) { return .wait(wait) }
                    self.activity = start(try redisAnswered(activity, now), now)
                case .askClickHouse:
                    if let wait = try pollClickHouse(at: now) { return .wait(wait) }
                    self.activity = start(machine.clickHouseAnswered(hasMore: try take(session.clickHouse.body)), now)
                case .pause:
                    if let remaining = pauseEnd.remaining(now) { return .wait(.timer(remaining)) }
                    self.activity = start(machine.pauseEnded(), now)
                case .wantTruth:
                    guard let given else { return .wantTruth }
                    if case .clickHouse(let batch) = given { self.batch = batch }
                    self.given = nil
                    let isAnswer = if case .answer = given { true } else { false }
                    self.activity = start(machine.truthGiven(isAnswer: isAnswer), now)
                case .finish:
                    return .done
                case .fail(let failure):
                    return .failed(failure)
                }
            } catch {
                self.activity = start(machine.failed(error), now)
            }
        }
    }

    /// Begins the action, or if it cannot begin, what the machine says then.
    private func start(_ action: EntityReadMachine.Action, _ now: Int64) -> EntityReadMachine.Action {
        do throws(Failure) {
            try begin(action, now)
            return action
        } catch {
            return start(machine.failed(error), now)
        }
    }

    private func begin(_ action: EntityReadMachine.Action, _ now: Int64) throws(Failure) {
        switch action {
        case .openRedis:
            try startRedis { redis throws(Failure) in try redis.open(at: now) }
        case .read:
            try startRedis { redis throws(Failure) in try redis.send(at: now) { compose(&$0) } }
        case .want:
            let key = session.keys.wanted(of: type.name)
            try startRedis { redis throws(Failure) in
                try redis.send(at: now) { commands in
                    for id in missed {
                        commands.begin("ZINCRBY", arguments: 3)
                        commands.append(key: key)
                        commands.append(1 as Int64)
                        commands.append(id)
                    }
                }
            }
        case .pause(let milliseconds):
            pauseEnd = Deadline(after: milliseconds, from: now)
        case .wantTruth:
            if machine.hasWaitedInVain { session.installsAbsent = Deadline(after: Self.patience, from: now) }
            countLook()
        case .askClickHouse:
            let query = Array(query(asOf: batch).utf8)
            try startClickHouse { link throws(Failure) in try link.ask(query, format: nil, at: now) }
            if machine.question.readsRedis { session.tally.counters.clickhouse_fallbacks &+= 1 }
        case .finish:
            countLook()
        case .fail:
            break
        }
    }

    /// Once, when it is settled what Redis has: reading again while installs are waited for is the same look.
    private func countLook() {
        guard machine.question.readsRedis, machine.question.asksTruth, !isLookCounted else { return }
        isLookCounted = true
        countLook(in: &session.tally.counters)
    }

    private func redisAnswered(
        _ activity: EntityReadMachine.Action, _ now: Int64
    ) throws(Failure) -> EntityReadMachine.Action {
        switch activity {
        case .openRedis:
            return machine.redisOpened()
        case .read:
            switch try takeReplies() {
            case .some(let finding): return machine.redisRead(finding, at: now)
            case .inPart: return machine.redisReadInPart()
            }
        default:
            return machine.wanted(isFirst: isFirst, at: now)
        }
    }

    /// Whether one of the missed entities was missed by nobody before; also if it could not be noted.
    private var isFirst: Bool {
        let replies = session.redis.replies
        var position = session.redis.answer
        for _ in missed {
            guard case .text = replies[position], !replies.text(at: position).elementsEqual("1".utf8) else {
                return true
            }
            position = replies.position(after: position)
        }
        return false
    }
}

extension Failure {
    /// The first error among replies that do not have the shape that was expected.
    static func unexpected(_ replies: ReplyArena, from position: Int, count: Int) -> Failure {
        var position = position
        for _ in 0..<count {
            if let error = replies.error(at: position), !error.starts(with: "WRONGTYPE".utf8) {
                return .redis(error: error)
            }
            position = replies.position(after: position)
        }
        return .redisNonsense("The counts of an entity do not have the form of counts.")
    }

    /// Deltas that do not add up are for a repair, and no number to tell.
    static let belowZero = Failure.clickHouseFailed(
        "The deltas of an entity add up to less than zero.",
        hint: "See reactions.reconcile_status, and reactions.restart_backfill for a type with a table.")

    static let otherForm = Failure.clickHouseNonsense("The answer does not have the form of the query.")
}
