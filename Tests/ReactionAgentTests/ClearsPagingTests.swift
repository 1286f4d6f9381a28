import ClickHouseStore
import ReactionModel
import Testing

@testable import ReactionAgent

@Suite struct ClearsPagingTests {
    private func rows(_ pairs: [(user: Int64, entity: Int64)]) -> [EntityQuery.Row] {
        pairs.map {
            EntityQuery.Row(
                entityID: $0.entity,
                reactor: Reactor(position: ReactionPosition(version: .zero, time: 0, userID: $0.user), flags: 1))
        }
    }

    /// Users with 1 to 9 reactions, in pages of 2 to 30: no place has an entity twice, and there are no more places than users.
    @Test(arguments: 2...30)
    func noPlaceTellsOfAnEntityTwice(limit: Int) {
        for users in 1...12 as ClosedRange<Int64> {
            let all = rows((1...users).flatMap { user in (1...(user * 7 % 9 + 1)).map { (user, $0) } })
            var place = 0
            var last: Int64?
            var next = 0
            var counted: Set<[Int64]> = []
            var told = 0
            while true {
                let found = Array(all[next...].prefix(limit))
                let isLast = found.count < limit
                let page = Counting.page(of: found, continuing: last, isLast: isLast)
                guard let first = page.first, let end = page.last else { break }
                if let last, last != first.reactor.position.userID { place += 1 }
                var entities: Set<Int64> = []
                for row in page where entities.insert(row.entityID).inserted {
                    #expect(counted.insert([Int64(place), row.entityID]).inserted)
                }
                told += page.count
                next += page.count
                last = end.reactor.position.userID
                if isLast, page.count == found.count { break }
            }
            #expect(told == all.count)
            #expect(place < users)
        }
    }
}
