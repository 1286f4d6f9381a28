import CLibPQ
import Glibc

/// A blocking libpq connection for what a test wants to say in SQL. Values are texts; NULL is nil. One user at a time.
public final class PostgresConnection: @unchecked Sendable {
    // Safe because: libpq allows a connection to move between threads, and a test uses it from one task at a time.
    public let handle: OpaquePointer

    public init(_ conninfo: String) throws {
        guard let handle = PQconnectdb(conninfo) else { throw TestSupportError("libpq is out of memory") }
        self.handle = handle
        guard PQstatus(handle) == CONNECTION_OK else {
            throw TestSupportError(String(cString: PQerrorMessage(handle)))
        }
        PQsetNoticeProcessor(handle, { _, _ in }, nil)
    }

    deinit { PQfinish(handle) }

    public var backendPID: Int32 { PQbackendPID(handle) }

    /// Runs one statement with parameters `$1`… and returns its rows.
    @discardableResult
    public func query(_ sql: String, _ parameters: [String?] = []) throws -> [[String?]] {
        let copies = parameters.map { $0.flatMap { strdup($0) } }
        defer { copies.forEach { free($0) } }
        let values = copies.map { UnsafePointer($0) }
        return try rows(PQexecParams(handle, sql, Int32(values.count), nil, values, nil, nil, 0))
    }

    /// Runs any number of statements and returns the last one's rows.
    @discardableResult
    public func execute(_ sql: String) throws -> [[String?]] { try rows(PQexec(handle, sql)) }

    /// The first column of the first row.
    public func value(_ sql: String, _ parameters: [String?] = []) throws -> String? {
        try query(sql, parameters).first?.first ?? nil
    }

    private func rows(_ result: OpaquePointer?) throws -> [[String?]] {
        defer { PQclear(result) }
        switch PQresultStatus(result) {
        case PGRES_TUPLES_OK, PGRES_COMMAND_OK, PGRES_EMPTY_QUERY:
            return (0..<PQntuples(result)).map { row in
                (0..<PQnfields(result)).map { column in
                    PQgetisnull(result, row, column) == 1 ? nil : String(cString: PQgetvalue(result, row, column))
                }
            }
        default:
            func field(_ code: Int32) -> String {
                PQresultErrorField(result, code).map { String(cString: $0) } ?? ""
            }
            throw PostgresError(
                sqlstate: field(Int32(UInt8(ascii: "C"))), message: field(Int32(UInt8(ascii: "M"))),
                detail: field(Int32(UInt8(ascii: "D"))), hint: field(Int32(UInt8(ascii: "H"))),
                connection: String(cString: PQerrorMessage(handle)))
        }
    }
}

/// An error answer of PostgreSQL. Without an SQLSTATE the connection itself failed.
public struct PostgresError: Error {
    public let sqlstate: String
    public let message: String
    public let detail: String
    public let hint: String
    public let connection: String
}
