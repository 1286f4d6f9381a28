public import ReactionModel

/// The queries by which a backend asks ClickHouse for a user's flags, and the form of their answer.
///
/// One row per (entity, kind): the kind's state as of its newest version (argMax, not FINAL). Kinds whose last event took them away
/// are answered only while an event of theirs could still be in the outbox, that is above the floor: there the newer one decides.
/// Columns are cast, so that the answer's form does not hang on theirs; in WHERE they are bare, so that the primary key is used.
public struct TruthQuery {
    public static let table: StaticString = "entityMetricEvents"
    /// Ids per query: below the 256 KiB of text and the 50,000 elements that ClickHouse parses by default.
    public static let idsPerQuery = 10_000

    private let entityType: [UInt8]
    private let kinds: [Kind]
    private let userID: Int64
    private let floor: Int64

    public init(entityType: String, kinds: [Kind], userID: Int64, floor: Int64) {
        self.entityType = Array(entityType.utf8)
        self.kinds = kinds
        self.userID = userID
        self.floor = floor
    }

    /// The given entities, at most `idsPerQuery`.
    public func entities(_ ids: some Collection<Int64>) -> [UInt8] {
        var text = head()
        text.append(" AND entityId IN (")
        text.append(list: ids)
        text.append(")")
        tail(&text)
        return text
    }

    /// Every entity of the user, up to a number of rows above which the user has more than `limit` reactions.
    public func wholeUser(limit: Int32) -> [UInt8] {
        var text = head()
        tail(&text)
        text.append(" LIMIT ")
        text.appendDecimal(Int64(rowLimit(limit)))
        return text
    }

    /// The number of rows at which an answer of `wholeUser` may have been cut off.
    public func rowLimit(_ limit: Int32) -> Int {
        (Int(max(limit, 0)) + 1) * max(kinds.count, 1) + 1
    }

    /// The first `count` entities above `after` with one of the bits of `mask`, and the entities `others`.
    public func page(mask: Int32, after: Int64, count: Int, others: [Int64]) -> [UInt8] {
        var text = head()
        text.append(" AND (entityId GLOBAL IN (SELECT entityId FROM (SELECT entityId, metricType FROM ")
        text.append(Self.table)
        conditions(&text, kinds: kinds.filter { $0.flag & mask != 0 })
        text.append(" AND entityId > ")
        text.appendDecimal(after)
        text.append(" GROUP BY entityId, metricType HAVING argMax(metricValue, version) > 0)")
        text.append(" GROUP BY entityId ORDER BY entityId LIMIT ")
        text.appendDecimal(Int64(max(count, 0)))
        text.append(")")
        if !others.isEmpty {
            text.append(" OR entityId IN (")
            text.append(list: others)
            text.append(")")
        }
        text.append(")")
        tail(&text)
        return text
    }

    private func head() -> [UInt8] {
        var text: [UInt8] = []
        text.append(
            "SELECT toInt64(entityId), toInt64(max(version)) AS newest, toInt32(transform(toString(metricType), [")
        text.append(list: kinds) { $0.append(quoted: $1.metricType.utf8) }
        text.append("], [")
        text.append(list: kinds) { $0.appendDecimal(Int64($1.flag)) }
        text.append("], 0) * if(argMax(metricValue, version) > 0, 1, -1)) AS state FROM ")
        text.append(Self.table)
        conditions(&text, kinds: kinds)
        return text
    }

    private func conditions(_ text: inout [UInt8], kinds: [Kind]) {
        text.append(" WHERE entityType = ")
        text.append(quoted: entityType)
        text.append(" AND userId = ")
        text.appendDecimal(userID)
        text.append(" AND metricType IN (")
        text.append(list: kinds) { $0.append(quoted: $1.metricType.utf8) }
        text.append(")")
    }

    private func tail(_ text: inout [UInt8]) {
        text.append(" GROUP BY entityId, metricType HAVING state > 0 OR newest > ")
        text.appendDecimal(floor)
    }
}

extension [UInt8] {
    fileprivate mutating func append(_ text: StaticString) {
        text.withUTF8Buffer { append(contentsOf: $0) }
    }

    fileprivate mutating func append<Item>(
        list items: some Collection<Item>, _ appendItem: (inout [UInt8], Item) -> Void
    ) {
        var isFirst = true
        for item in items {
            if !isFirst { append(UInt8(ascii: ",")) }
            isFirst = false
            appendItem(&self, item)
        }
    }

    fileprivate mutating func append(list ids: some Collection<Int64>) {
        append(list: ids) { $0.appendDecimal($1) }
    }

    fileprivate mutating func append(quoted text: some Collection<UInt8>) {
        append(UInt8(ascii: "'"))
        for byte in text {
            if byte == UInt8(ascii: "'") || byte == UInt8(ascii: "\\") { append(UInt8(ascii: "\\")) }
            append(byte)
        }
        append(UInt8(ascii: "'"))
    }
}
