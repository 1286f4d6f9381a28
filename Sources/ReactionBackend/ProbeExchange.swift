import CReactionsBoundary
import ClickHouseStore
import RedisStore

/// Asks both servers who they are. What is wrong is in the rows; the exchange itself never fails. The breakers are passed by: who
/// asks wants to know how things are now.
final class ProbeExchange: Exchange {
    private enum State {
        /// Can transition to: openingRedis, idleAfterRedis.
        case idle
        /// Can transition to: askingRedis, idleAfterRedis.
        case openingRedis
        /// One master after the other. Can transition to: idleAfterRedis.
        case askingRedis
        /// Can transition to: askingClickHouse, done.
        case idleAfterRedis
        /// Can transition to: done.
        case askingClickHouse
        case done
    }

    private static let tables = ["entityMetricEvents", "reactionsByEntity", "reactionDeltas"]

    private var state = State.idle
    /// Those that are still to be asked.
    private var masters: ArraySlice<RedisLink> = []
    private var isGreeting = false
    private var lost: [Failure] = []
    private var versions: Set<String> = []
    /// Nil where it is not told.
    private var policies: Set<String?> = []
    private var lentRows: [(check: LentText, isOK: Bool, detail: LentText, hint: LentText)] = []
    private var rows = LentArray<rx_probe_row>([])

    override func advance(at now: Int64) -> Step {
        while true {
            switch state {
            case .idle, .openingRedis, .askingRedis:
                do throws(Failure) {
                    if let wait = try advanceRedis(now) { return .wait(wait) }
                } catch {
                    add("redis_reachable", error)
                    state = .idleAfterRedis
                }
            case .idleAfterRedis, .askingClickHouse:
                do throws(Failure) {
                    if let wait = try advanceClickHouse(now) { return .wait(wait) }
                } catch {
                    add("clickhouse_reachable", error)
                    state = .done
                }
            case .done:
                rows = LentArray(
                    lentRows.map { row in
                        rx_probe_row(
                            check: row.check.start, ok: row.isOK ? 1 : 0, detail: row.detail.start, hint: row.hint.start
                        )
                    })
                return .done
            }
        }
    }

    var result: (start: UnsafePointer<rx_probe_row>?, count: Int) { (rows.start, rows.count) }

    // MARK: Redis

    private func advanceRedis(_ now: Int64) throws(Failure) -> Wait? {
        switch state {
        case .idle:
            try startRedis { redis throws(Failure) in try redis.open(at: now, ignoringBreaker: true) }
            state = .openingRedis
        case .openingRedis:
            if let wait = try pollRedis(at: now) { return wait }
            masters = session.redis.masters[...]
            askNextMaster(now)
        default:
            do throws(Failure) {
                if let wait = try pollRedis(at: now) { return wait }
                guard let master = masters.first else { throw .brokenContract("There is no server to ask.") }
                if isGreeting { try ask(master, now) } else { try answered(now) }
            } catch {
                lose(error, now)
            }
        }
        return nil
    }

    private func askNextMaster(_ now: Int64) {
        guard let master = masters.first else {
            addRedis()
            return state = .idleAfterRedis
        }
        state = .askingRedis
        isGreeting = true
        do throws(Failure) {
            try startRedis { redis throws(Failure) in try redis.open(master, at: now, ignoringBreaker: true) }
        } catch {
            lose(error, now)
        }
    }

    private func lose(_ failure: Failure, _ now: Int64) {
        lost.append(failure)
        masters = masters.dropFirst()
        askNextMaster(now)
    }

    private func ask(_ master: RedisLink, _ now: Int64) throws(Failure) {
        isGreeting = false
        try startRedis { redis throws(Failure) in
            try redis.send(to: master, at: now) { commands in
                commands.begin("INFO", arguments: 1)
                commands.append("server")
                commands.begin("CONFIG", arguments: 2)
                commands.append("GET")
                commands.append("maxmemory-policy")
            }
        }
    }

    private func answered(_ now: Int64) throws(Failure) {
        let replies = session.redis.replies
        let info = session.redis.answer
        if let error = replies.error(at: info) { throw .redis(error: error) }
        versions.insert(text(RedisInfo.value(of: "redis_version", in: replies.text(at: info)) ?? []))
        let policy = replies.position(after: info)
        let isTold = replies.error(at: policy) == nil && replies[policy] == .array(2)
        policies.insert(isTold ? text(replies.text(at: policy &+ 2)) : nil)
        masters = masters.dropFirst()
        askNextMaster(now)
    }

    private func text(_ bytes: ArraySlice<UInt8>) -> String { String(decoding: bytes, as: UTF8.self) }

    private func addRedis() {
        let redis = session.redis
        var detail = "Redis \(versions.sorted().joined(separator: ", "))"
        if redis.isCluster { detail += ", a cluster of \(redis.masters.count) masters" }
        if let failure = lost.last {
            detail = "\(lost.count) of \(redis.masters.count) masters: \(failure.message): \(failure.detail)"
        } else if redis.slotsWithoutMaster > 0 {
            detail += ", without a master for \(redis.slotsWithoutMaster) slots"
        }
        let isWhole = lost.isEmpty && redis.slotsWithoutMaster == 0
        add(
            "redis_reachable", isOK: isWhole, detail,
            hint: isWhole ? "" : "What is kept by the others is served; see CLUSTER NODES.")
        guard !policies.isEmpty else { return }
        guard !policies.contains(nil) else {
            return add(
                "redis_maxmemory_policy", isOK: false, "CONFIG GET is refused.",
                hint: "Allow +config|get to the user, or see that maxmemory-policy is noeviction or volatile-*.")
        }
        let isOK = policies.allSatisfy { $0 == "noeviction" || $0?.hasPrefix("volatile-") == true }
        add(
            "redis_maxmemory_policy", isOK: isOK, policies.compactMap(\.self).sorted().joined(separator: ", "),
            hint: isOK
                ? ""
                : "Set maxmemory-policy to noeviction or one of volatile-*; keys without a TTL must not be evicted.")
    }

    // MARK: ClickHouse

    private func advanceClickHouse(_ now: Int64) throws(Failure) -> Wait? {
        guard case .askingClickHouse = state else {
            let query = Self.query()
            try startClickHouse { link throws(Failure) in
                try link.ask(query, format: "TabSeparated", at: now, ignoringBreaker: true)
            }
            state = .askingClickHouse
            return nil
        }
        if let wait = try pollClickHouse(at: now) { return wait }
        try readClickHouse(session.clickHouse.body)
        state = .done
        return nil
    }

    private static func query() -> [UInt8] {
        let list = tables.map { "'\($0)'" }.joined(separator: ",")
        return Array(
            """
            SELECT concat('version ', version()) AS line UNION ALL \
            SELECT concat('table ', name) AS line FROM system.tables WHERE database = currentDatabase() AND name IN (\(list))
            """.utf8)
    }

    private func readClickHouse(_ body: [UInt8]) throws(Failure) {
        let lines = body.split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
        guard let version = lines.first(where: { $0.hasPrefix("version ") }) else {
            throw .clickHouseNonsense("The server does not tell its version.")
        }
        add("clickhouse_reachable", isOK: true, "ClickHouse \(version.dropFirst(8))")
        let missing = Self.tables.filter { !lines.contains("table \($0)") }
        add(
            "clickhouse_tables", isOK: missing.isEmpty,
            missing.isEmpty ? "all there" : "missing: \(missing.joined(separator: ", "))",
            hint: missing.isEmpty ? "" : "Run reactiond init-clickhouse.")
    }

    // MARK: Rows

    private func add(_ check: String, _ failure: Failure) {
        let detail = failure.detail.isEmpty ? failure.message : "\(failure.message): \(failure.detail)"
        add(
            check, isOK: false, detail,
            hint: failure.hint.isEmpty ? "See that the server runs and can be reached." : failure.hint)
    }

    private func add(_ check: String, isOK: Bool, _ detail: String, hint: String = "") {
        lentRows.append((LentText(check), isOK, LentText(detail), LentText(hint)))
    }
}

/// A NUL-terminated text lent to C for the life of an exchange.
struct LentText {
    private let bytes: LentArray<CChar>

    init(_ text: String) {
        bytes = LentArray(Array(text.utf8CString))
    }

    var start: UnsafePointer<CChar>? { bytes.start }
}
