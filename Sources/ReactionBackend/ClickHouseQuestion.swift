import ClickHouseStore

/// One question about a user to ClickHouse, in as many queries as its ids need, and the rows of their answers.
struct ClickHouseQuestion {
    private let query: TruthQuery
    private let flags: Int32
    private let limit: Int32
    /// Nil: the whole user.
    private var unasked: ArraySlice<Int64>?
    private var isWholeUserAsked = false
    private(set) var rows: [TruthRow] = []

    init(_ query: TruthQuery, flags: Int32, ids: [Int64]?, limit: Int32) {
        self.query = query
        self.flags = flags
        self.limit = limit
        unasked = ids?[...]
    }

    /// The next query, or nil when everything has been asked.
    mutating func next() -> [UInt8]? {
        guard let ids = unasked else {
            defer { isWholeUserAsked = true }
            return isWholeUserAsked ? nil : query.wholeUser(limit: limit)
        }
        guard !ids.isEmpty else { return nil }
        let part = ids.prefix(TruthQuery.idsPerQuery)
        unasked = ids.dropFirst(part.count)
        return query.entities(part)
    }

    mutating func add(_ answer: [UInt8]) throws(Failure) {
        guard let more = TruthRow.rows(answer, flags: flags) else {
            throw .clickHouseNonsense("The answer does not have the form of the query.")
        }
        rows += more
    }

    /// Whether there may be more rows than were answered.
    var isCutOff: Bool { unasked == nil && rows.count >= query.rowLimit(limit) }
}
