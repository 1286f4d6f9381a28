import TestSupport

/// Reactions of ever more users to one post, in transactions of a bulk INSERT into an attached table: capture writes one event for
/// each row into the outbox, as for any other row.
final class ViralLoad {
    static let post = 7
    static let type = CountedType.post

    /// Whose reaction comes next. In ascending order every row goes to the end of the application's index and of the outbox's; mixed, it
    /// goes anywhere into them, and the larger they are the longer that takes PostgreSQL.
    enum Users: String, CaseIterable, Sendable {
        case mixed
        case ascending
    }

    /// A stretch of the way to the last reaction: what was written, counted, and what that took.
    struct Slice {
        /// Of the post, when the slice is counted.
        var reactions: Int
        var events: Int
        /// From the first row's writing until Redis's counts have the last one.
        var seconds: Double
        var cpu: EntitySite.CPUTimes
        /// Time of Redis in commands, and their number.
        var commandSeconds: Double
        var commands: Int
        /// Of all keys of the post, by MEMORY USAGE.
        var bytes: Int
        /// What Redis has allocated since the post had no reaction.
        var growth: Int
        /// Seconds of each tenth of the events, by when they were counted. They follow each other without a pause: what is behind, or
        /// is at work meanwhile for what came before, falls into some of them.
        var tenths: [Double]

        /// Microseconds for an event.
        func perEvent(_ seconds: Double) -> Double { seconds * 1e6 / Double(events) }

        /// Of the tenths: what an event takes as a rule.
        var medianPerEvent: Double {
            let sorted = tenths.sorted()
            return perEvent((sorted[4] + sorted[5]) / 2 * 10)
        }
    }

    private let site: EntitySite
    /// The most that the post will have.
    private let limit: Int
    private let users: Users
    private let rowsPerTransaction: Int
    private(set) var reactions = 0
    private var bytesAtFirst = 0

    init(_ site: EntitySite, limit: Int, users: Users, rowsPerTransaction: Int) async throws {
        self.site = site
        self.limit = limit
        self.users = users
        self.rowsPerTransaction = rowsPerTransaction
        try await site.install(Self.post...Self.post, of: Self.type)
        bytesAtFirst = try RedisUsage(site.redis).usedBytes
    }

    /// Mixed by 7919, a prime that does not divide the modulus, so that no two numbers are one user.
    func user(_ number: String) -> String {
        if users == .ascending { return number }
        var modulus = limit + 3
        while modulus.isMultiple(of: 7919) { modulus += 1 }
        return "1 + \(number)::bigint * 7919 % \(modulus)"
    }

    /// Writes until the post has so many reactions, and waits until they are counted.
    ///
    /// - Parameter rowsPerTransaction: if others than for all.
    func grow(to target: Int, rowsPerTransaction: Int? = nil) async throws -> Slice {
        let rowsPerTransaction = rowsPerTransaction ?? self.rowsPerTransaction
        let events = target - reactions
        let (redis, cpu, start) = (try RedisUsage(site.redis), site.cpuTimes(), microseconds())
        let watch = try CountWatch(site.stack, try site.countsKey(Self.post, of: Self.type), from: reactions)
        for first in stride(from: reactions + 1, through: target, by: rowsPerTransaction) {
            let last = min(first + rowsPerTransaction - 1, target)
            try site.session.execute(
                Self.type.insert(
                    from: "generate_series(\(first), \(last)) AS n, (SELECT \(Self.post) AS entity) AS post", user: user
                ))
        }
        try await site.counted(target, Self.post, of: Self.type, within: .seconds(600))
        let seconds = (microseconds() - start) / 1e6
        let passed = try await watch.end()
        let (redisAfter, cpuAfter) = (try RedisUsage(site.redis), site.cpuTimes())
        reactions = target
        return Slice(
            reactions: target, events: events, seconds: seconds, cpu: cpuAfter - cpu,
            commandSeconds: redisAfter.commandSeconds - redis.commandSeconds,
            commands: redisAfter.commands - redis.commands,
            bytes: try memory().values.reduce(0, +), growth: redisAfter.usedBytes - bytesAtFirst,
            tenths: passed.tenths(of: events, since: start))
    }

    /// Somebody else has written the next reactions.
    func written(_ events: Int) { reactions += events }

    /// Bytes by the word at the end of the key.
    func memory() throws -> [String: Int] {
        try site.memory(of: try site.keys(of: Self.type)[Self.post] ?? [])
    }

    /// Of the oldest and of the newest reactions so many: every second becomes another kind, the others are taken back. Waits until that
    /// is counted: the total, which changes by the last statement, tells that the ones before it are.
    func change(_ number: Int) async throws {
        for first in [1, reactions - number + 1] {
            for (offset, change) in [
                "UPDATE \(Self.type.table) SET reaction = 'Cry'", "DELETE FROM \(Self.type.table)",
            ].enumerated() {
                let numbers = "generate_series(\(first + offset), \(first + number - 1), 2) AS n"
                try site.session.execute(
                    """
                    \(change) WHERE \(Self.type.entityColumn) = \(Self.post) AND "userId" IN (SELECT \(user("n")) FROM \(numbers))
                    """)
            }
        }
        reactions -= 2 * (number / 2)
        try await site.counted(reactions, Self.post, of: Self.type)
    }
}
