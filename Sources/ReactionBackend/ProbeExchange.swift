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
        /// Can transition to: idleAfterRedis.
        case askingRedis
        /// Can transition to: askingClickHouse, done.
        case idleAfterRedis
        /// Can transition to: done.
        case askingClickHouse
        case done
    }

    private static let tables = ["entityMetricEvents", "reactionsByEntity", "reactionDeltas"]

    private var state = State.idle
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
            try startRedis { link throws(Failure) in try link.open(at: now, ignoringBreaker: true) }
            state = .openingRedis
        case .openingRedis:
            if let wait = try pollRedis(at: now) { return wait }
            var commands = CommandBuffer()
            commands.begin("INFO", arguments: 1)
            commands.append("server")
            commands.begin("CONFIG", arguments: 2)
            commands.append("GET")
            commands.append("maxmemory-policy")
            try startRedis { link throws(Failure) in try link.send(at: now) { $0.append(commandsOf: commands) } }
            state = .askingRedis
        default:
            if let wait = try pollRedis(at: now) { return wait }
            readRedis(session.redis.replies, at: session.redis.answer)
            state = .idleAfterRedis
        }
        return nil
    }

    private func readRedis(_ replies: ReplyArena, at position: Int) {
        let version = RedisInfo.value(of: "redis_version", in: replies.text(at: position)) ?? []
        add("redis_reachable", isOK: true, "Redis \(String(decoding: version, as: UTF8.self))")

        let policyReply = replies.position(after: position)
        guard replies.error(at: policyReply) == nil, replies[policyReply] == .array(2) else {
            return add(
                "redis_maxmemory_policy", isOK: false, "CONFIG GET is refused.",
                hint: "Allow +config|get to the user, or see that maxmemory-policy is noeviction or volatile-*.")
        }
        let policy = String(decoding: replies.text(at: policyReply &+ 2), as: UTF8.self)
        let isOK = policy == "noeviction" || policy.hasPrefix("volatile-")
        add(
            "redis_maxmemory_policy", isOK: isOK, policy,
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
