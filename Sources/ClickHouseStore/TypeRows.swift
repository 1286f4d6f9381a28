public import ReactionModel

/// The rows of one type in `entityMetricEvents`: which they are, and how they lie over its users.
public struct TypeRows: Sendable {
    public let type: EntityType

    public init(type: EntityType) {
        self.type = type
    }

    /// The smallest and the largest user id above one, the number of rows, and the sum of values.
    public func users(above user: Int64?) -> String {
        "SELECT min(userId), max(userId), count(), sum(toInt64(metricValue)) FROM entityMetricEvents WHERE \(condition)"
            + (user.map { " AND userId > \($0)" } ?? "")
    }

    /// Rows per run of `width` user ids: number of the run, count.
    public func histogram(_ users: ClosedRange<Int64>, width: UInt64) -> String {
        """
        SELECT intDiv(toUInt64(userId - toInt64(\(users.lowerBound))), toUInt64(\(width))) AS bucket, count() \
        FROM entityMetricEvents WHERE \(condition(users)) GROUP BY bucket
        """
    }

    var name: String { SQL.quoted(type.name) }
    var condition: String { "entityType = \(name)" }

    func condition(_ users: ClosedRange<Int64>) -> String {
        "\(condition) AND userId >= toInt64(\(users.lowerBound)) AND userId <= toInt64(\(users.upperBound))"
    }

    /// The bit of a row's kind. Comparisons, since ClickHouse makes them once per different name, and a number, since it groups by them
    /// several times as fast.
    var kind: String {
        let terms = type.kinds.map { "(metricType = \(SQL.quoted($0.metricType))) * toUInt32(\($0.flag))" }
        return "toUInt32(\((["0"] + terms).joined(separator: " + ")))"
    }
}
