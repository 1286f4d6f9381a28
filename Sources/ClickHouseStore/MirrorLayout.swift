/// How the mirror's tables of a server hold what differs between servers. A table made by an old server stays as it is when the server
/// is upgraded, so the columns are asked for.
public struct MirrorLayout: Equatable, Sendable {
    /// How a table holds `createdAt`.
    public enum TimeForm: Equatable, Sendable {
        /// DateTime: UInt32 seconds.
        case seconds
        /// DateTime64(6): Int64 microseconds.
        case microseconds

        init?(type: String) {
            if type == "DateTime" || type.hasPrefix("DateTime(") {
                self = .seconds
            } else if type == "DateTime64(6)" || type.hasPrefix("DateTime64(6,") {
                self = .microseconds
            } else {
                return nil
            }
        }
    }

    /// What keeps the tables from being used, in the operator's words.
    public struct Problem: Error, Equatable {
        public var message: String
    }

    public var events: TimeForm
    public var byEntity: TimeForm

    /// - Parameter columns: the answer to `MirrorTable.columnsQuery`.
    public init(columns: [[String]]) throws(Problem) {
        for table in MirrorTable.allCases {
            let present = columns.filter { $0.first == table.rawValue }.compactMap { $0.dropFirst().first }
            guard !present.isEmpty else { throw Problem(message: "table \(table.rawValue) does not exist") }
            for column in table.columns where !present.contains(column) {
                throw Problem(message: "table \(table.rawValue) has no column \(column)")
            }
        }
        func form(_ table: MirrorTable) throws(Problem) -> TimeForm {
            let type = columns.first { $0.count == 3 && $0[0] == table.rawValue && $0[1] == "createdAt" }?[2] ?? ""
            guard let form = TimeForm(type: type) else {
                throw Problem(message: "column createdAt of table \(table.rawValue) has the unexpected type \(type)")
            }
            return form
        }
        events = try form(.entityMetricEvents)
        byEntity = try form(.reactionsByEntity)
    }
}
