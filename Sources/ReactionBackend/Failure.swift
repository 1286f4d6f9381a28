import CReactionsBoundary
import RedisStore

/// Why an exchange failed. Texts follow PostgreSQL's style guide: the message without a capital and a full stop, detail and hint as
/// sentences. No password and no address of a server is ever in them, since any user may see them.
struct Failure: Error, Equatable {
    var code: rx_error_code
    var message: String
    var detail = ""
    var hint = ""

    static func redisUnreachable(_ detail: String, hint: String = "") -> Failure {
        Failure(code: RX_ERROR_REDIS_UNREACHABLE, message: "could not reach Redis", detail: detail, hint: hint)
    }

    static func redisRefused(_ detail: String) -> Failure {
        Failure(
            code: RX_ERROR_REDIS_REFUSED, message: "Redis refused the connection or a command", detail: detail,
            hint: "Check user and password in the secrets file and the user's ACL.")
    }

    static func redisNonsense(_ detail: String, hint: String = "Check that reactions.redis_url points to Redis.")
        -> Failure
    {
        Failure(code: RX_ERROR_REDIS_NONSENSE, message: "unexpected answer from Redis", detail: detail, hint: hint)
    }

    static func clickHouseUnreachable(_ detail: String) -> Failure {
        Failure(code: RX_ERROR_CLICKHOUSE_UNREACHABLE, message: "could not reach ClickHouse", detail: detail)
    }

    static func clickHouseRefused(_ detail: String) -> Failure {
        Failure(
            code: RX_ERROR_CLICKHOUSE_REFUSED, message: "ClickHouse refused the user", detail: detail,
            hint: "Check user and password in the secrets file and the user's grants.")
    }

    static func clickHouseFailed(_ detail: String, hint: String = "") -> Failure {
        Failure(
            code: RX_ERROR_CLICKHOUSE_FAILED, message: "ClickHouse answered with an error", detail: detail, hint: hint)
    }

    static func clickHouseNonsense(_ detail: String) -> Failure {
        Failure(
            code: RX_ERROR_CLICKHOUSE_NONSENSE, message: "unexpected answer from ClickHouse", detail: detail,
            hint: "Check that reactions.clickhouse_url points to ClickHouse's HTTP port.")
    }

    static func notConfigured(_ message: String, detail: String = "", hint: String = "") -> Failure {
        Failure(code: RX_ERROR_NOT_CONFIGURED, message: message, detail: detail, hint: hint)
    }

    /// Whether the settings are wrong, not a server.
    var isMistake: Bool { code == RX_ERROR_NOT_CONFIGURED || code == RX_ERROR_INTERNAL }

    static func brokenContract(_ detail: String) -> Failure {
        Failure(code: RX_ERROR_INTERNAL, message: "internal error of pg_reactions", detail: detail)
    }

    func write(to error: inout rx_error) {
        error.code = Int32(bitPattern: code.rawValue)
        withUnsafeMutableBytes(of: &error.message) { Self.copy(message, to: $0) }
        withUnsafeMutableBytes(of: &error.detail) { Self.copy(detail, to: $0) }
        withUnsafeMutableBytes(of: &error.hint) { Self.copy(hint, to: $0) }
    }

    /// Copies as many whole characters as fit, and a NUL.
    private static func copy(_ text: String, to buffer: UnsafeMutableRawBufferPointer) {
        var end = 0
        for scalar in text.unicodeScalars {
            let units = UTF8.encode(scalar)?.count ?? 0
            guard scalar != "\0", end + units < buffer.count else { break }
            UTF8.encode(scalar)?.forEach { unit in
                buffer[end] = unit
                end += 1
            }
        }
        if end < buffer.count { buffer[end] = 0 }
    }
}

extension Failure {
    /// An error that Redis answered, judged by its first word.
    static func redis(error text: some Collection<UInt8>) -> Failure {
        let detail = says + String(decoding: text.prefix(200), as: UTF8.self)
        return switch String(decoding: text.prefix { $0 != UInt8(ascii: " ") }, as: UTF8.self) {
        case "NOAUTH", "WRONGPASS", "NOPERM", "DENIED": .redisRefused(detail)
        case "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "READONLY", "OOM", "MISCONF",
            "NOREPLICAS":
            .redisUnreachable(detail)
        case notAsked: .redisUnreachable(String(decoding: text.dropFirst(notAsked.utf8.count &+ 1), as: UTF8.self))
        case "WRONGTYPE":
            .redisNonsense(
                detail,
                hint:
                    "The key was made by another program. Use another reactions.key_prefix, or drop it by reactions.invalidate."
            )
        default: .redisNonsense(detail)
        }
    }

    private static let says = "The server says: "
    private static let notAsked = "UNREACHABLE"

    /// What stands for the answer of a server that could not be asked; `redis(error:)` makes the same failure of it.
    var asRedisError: String {
        detail.hasPrefix(Self.says) ? String(detail.dropFirst(Self.says.count)) : "\(Self.notAsked) \(detail)"
    }

    static func redis(problem: ReplyReader.Problem) -> Failure {
        switch problem {
        case .outOfMemory: .redisUnreachable("There is not enough memory for the reply.")
        case .protocolViolation: .redisNonsense("The reply breaks the protocol.")
        case .tooLong: .redisNonsense("The reply is too long.")
        }
    }
}
