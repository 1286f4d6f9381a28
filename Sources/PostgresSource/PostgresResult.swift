internal import CLibPQ

/// A result in text form. Frees itself.
final class PostgresResult {
    private let result: OpaquePointer

    init(_ result: OpaquePointer) {
        self.result = result
    }

    deinit {
        PQclear(result)
    }

    var rows: Range<Int32> { 0..<PQntuples(result) }

    /// Nil for SQL's NULL and for a row or column that is not there.
    func text(_ row: Int32, _ column: Int32) -> String? {
        guard row < PQntuples(result), column < PQnfields(result), PQgetisnull(result, row, column) == 0 else {
            return nil
        }
        return String(cString: PQgetvalue(result, row, column))
    }

    func value<Value: LosslessStringConvertible>(_ row: Int32, _ column: Int32, as: Value.Type = Value.self) -> Value? {
        text(row, column).flatMap(Value.init)
    }

    /// The same, of a column that cannot be NULL.
    func required<Value: LosslessStringConvertible>(
        _ row: Int32, _ column: Int32, as: Value.Type = Value.self
    ) throws(PostgresError) -> Value {
        guard let value = value(row, column, as: Value.self) else {
            throw PostgresError(disposition: .stop, message: "unexpected value in column \(column + 1) of a result")
        }
        return value
    }

    func isTrue(_ row: Int32, _ column: Int32) -> Bool {
        text(row, column) == "t"
    }

    /// The elements of a one-dimensional array of numbers.
    func numbers<Value: LosslessStringConvertible>(_ row: Int32, _ column: Int32, as: Value.Type = Value.self)
        -> [Value]
    {
        (text(row, column) ?? "").split { "{},".contains($0) }.compactMap { Value(String($0)) }
    }
}
