import CLibPQ
import Glibc
import TestSupport

/// A prepared statement whose parameters and results are binary, as a driver that is tuned sends them.
final class PreparedStatement {
    private let session: PostgresConnection
    private let name: String

    init(_ session: PostgresConnection, _ sql: String) throws {
        self.session = session
        name = uniqueName("s")
        let result = PQprepare(session.handle, name, sql, 0, nil)
        defer { PQclear(result) }
        guard PQresultStatus(result) == PGRES_COMMAND_OK else {
            throw BenchmarkError(String(cString: PQerrorMessage(session.handle)))
        }
    }

    /// Runs it and hands over the rows, which are valid during the call.
    @discardableResult
    func run<Answer>(_ parameters: [BinaryParameter], _ body: (Rows) throws -> Answer) throws -> Answer {
        let lengths = parameters.map { Int32($0.bytes.count) }
        let formats = [Int32](repeating: 1, count: parameters.count)
        let values = parameters.map { parameter in
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: max(parameter.bytes.count, 1), alignment: 8)
            copy.copyBytes(from: parameter.bytes)
            return copy
        }
        defer { for value in values { value.deallocate() } }
        let pointers = values.map { UnsafePointer($0.baseAddress?.assumingMemoryBound(to: CChar.self)) }
        let result = PQexecPrepared(
            session.handle, name, Int32(parameters.count), pointers, lengths, formats, 1)
        defer { PQclear(result) }
        guard PQresultStatus(result) == PGRES_TUPLES_OK || PQresultStatus(result) == PGRES_COMMAND_OK, let result else {
            throw BenchmarkError(String(cString: PQerrorMessage(session.handle)))
        }
        return try body(Rows(result: result))
    }

    struct Rows {
        fileprivate let result: OpaquePointer
        var count: Int { Int(PQntuples(result)) }

        /// A column of type bigint or integer.
        func integer(_ row: Int, _ column: Int) -> Int64 {
            let length = PQgetlength(result, Int32(row), Int32(column))
            guard let bytes = PQgetvalue(result, Int32(row), Int32(column)) else { return 0 }
            let raw = UnsafeRawPointer(bytes)
            return length == 8
                ? Int64(bigEndian: raw.loadUnaligned(as: Int64.self))
                : Int64(Int32(bigEndian: raw.loadUnaligned(as: Int32.self)))
        }
    }
}

/// A parameter in PostgreSQL's binary form.
struct BinaryParameter {
    let bytes: [UInt8]

    static func bigint(_ value: Int64) -> Self { Self(bytes: bigEndian(value)) }
    static func integer(_ value: Int32) -> Self { Self(bytes: bigEndian(value)) }

    static func text(_ value: String) -> Self { Self(bytes: Array(value.utf8)) }

    static func bigints(_ values: [Int64]) -> Self {
        let int8OID: Int32 = 20
        var bytes = bigEndian(Int32(1)) + bigEndian(Int32(0)) + bigEndian(int8OID)
        bytes += bigEndian(Int32(values.count)) + bigEndian(Int32(1))
        for value in values { bytes += bigEndian(Int32(8)) + bigEndian(value) }
        return Self(bytes: bytes)
    }

    private static func bigEndian<Number: FixedWidthInteger>(_ value: Number) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { Array($0) }
    }
}
