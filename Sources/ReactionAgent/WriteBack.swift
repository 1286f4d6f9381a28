import ClickHouseStore
import Pipeline
import ReactionModel

/// Reads what a table has missed out of ClickHouse, in slices of users, and hands it over in pages: of a rollback, and of a table that
/// was restored from an archive.
///
/// Pages are states, so writing one twice changes nothing. Memory holds a slice: about `sliceRows` rows, or one user's.
struct WriteBack: Sendable {
    static let sliceRows: Int64 = 1 << 16
    /// A page is a transaction that holds the fence.
    static let keysPerPage = 1_000

    let type: EntityType
    /// The last event that was a change of the table.
    let stopVersion: Version
    let after: BatchNumber
    let through: BatchNumber
    /// Every user up to it is done.
    var usersDone: Int64?

    private var query: WriteBackQuery {
        WriteBackQuery(type: type, above: stopVersion, after: after, through: through)
    }

    /// - Parameters:
    ///   - planned: told the number of reactions, an estimate if they are many.
    ///   - write: writes a page, in a transaction; with it every user up to the second argument is done, if there is one.
    func run(
        _ store: BackfillStore, planned: (Int64) async throws -> Void,
        write: (WriteBackPage, Int64?) async throws -> Void
    ) async throws {
        let query = query
        let bounds: [Int64] = try await store.numbers(query.users(above: usersDone), 3)
        guard bounds[2] > 0 else { return }
        let total: [Int64] = try await store.numbers(query.reactions, 1)
        try await planned(total[0])
        var plan = SlicePlan(users: bounds[0]...bounds[1], sliceRows: Self.sliceRows)
        while true {
            try Task.checkCancellation()
            switch plan.action {
            case .count(let users, let width):
                plan.counted(try await store.histogram(query.histogram(users, width: width)))
            case .take(let users):
                let kinds = try await store.kinds(query, users)
                var pages = WriteBackPage.pages(of: kinds, mode: type.mode, keysPerPage: Self.keysPerPage)
                let last = pages.popLast() ?? WriteBackPage()
                for page in pages { try await write(page, nil) }
                try await write(last, users.upperBound)
                plan.taken()
            case .finish: return
            }
        }
    }
}

extension BackfillStore {
    func kinds(_ query: WriteBackQuery, _ users: ClosedRange<Int64>) throws(SinkError) -> [WriteBackQuery.Kind] {
        try forgettingSession { session throws(SinkError) in
            let answer = try session.client.query(
                query.kinds(users, form: session.layout.events), settings: Removal.settings(session.abilities))
            guard let kinds = WriteBackQuery.kinds(answer) else { throw .nonsense }
            return kinds
        }
    }
}
