internal import CLibPQ

/// A failure of PostgreSQL with what to do about it, decided from the SQLSTATE alone.
public struct PostgresError: Error, Sendable, CustomStringConvertible {
    public enum Disposition: Sendable {
        /// The same again, later: a lock, a conflict, a resource.
        case retry
        /// The session is gone or in an unknown state: a new one.
        case reconnect
        /// Configuration, privilege or schema: tell the operator and try slowly.
        case stop
    }

    /// Five characters, or empty if the server did not say anything.
    public var sqlState: String
    public var message: String
    /// The detail is part of the message, too.
    public var detail: String?
    public var hint: String?
    public var disposition: Disposition

    public init(disposition: Disposition, sqlState: String = "", message: String) {
        self.disposition = disposition
        self.sqlState = sqlState
        self.message = message
    }

    /// From an error result.
    init(result: OpaquePointer) {
        func field(_ code: Character) -> String {
            guard let value = PQresultErrorField(result, Int32(code.asciiValue ?? 0)) else { return "" }
            return String(cString: value)
        }
        let state = field("C")
        let detail = field("D")
        self.init(
            disposition: Self.disposition(sqlState: state), sqlState: state,
            message: detail.isEmpty ? field("M") : "\(field("M")) (\(detail))")
        self.detail = detail.isEmpty ? nil : detail
        hint = field("H").isEmpty ? nil : field("H")
    }

    /// From the connection, when there is no result.
    init(connection: OpaquePointer) {
        let message = String(cString: PQerrorMessage(connection))
        self.init(disposition: .reconnect, message: message.split(separator: "\n").joined(separator: " "))
    }

    static func disposition(sqlState: String) -> Disposition {
        switch sqlState {
        case "57P01", "57P02", "57P03", "57P05", "25P03": return .reconnect
        case "57014", "55P03": return .retry
        default: break
        }
        switch sqlState.prefix(2) {
        case "", "08": return .reconnect
        case "28", "3D", "3F", "42", "0A", "22", "23", "F0", "XX", "55": return .stop
        default: return .retry
        }
    }

    public var description: String { sqlState.isEmpty ? message : "\(sqlState): \(message)" }
}
