import Glibc
import SeededRandom
import Synchronization
import TestSupport

/// How the application asks and changes at present; the demonstration moves it over while it runs.
struct ApplicationWays: Sendable {
    var readsByFunctions = false
    var writesByFunctions = false
    var isOver = false
}

/// What a client has seen so far.
struct ApplicationRecord: Sendable {
    struct Write: Sendable {
        /// Microseconds of the forward clock.
        var began: Double
        var ended: Double
    }

    var reads = 0
    var writes: [Write] = []
    /// Reads that were answered with an error because Redis or ClickHouse did not answer in time, and done again.
    var unknownReads = 0
    /// Statements that were refused because the phase changed under them (40001), and done again.
    var retried = 0
    /// Reads that were behind at first and right within the grace, and how long the slowest took.
    var lateReads = 0
    var longestLate = 0.0
    var wrongReads: [String] = []
    var failure: String?
}

/// One session of the application, with the users that are its own: so it knows what every read of theirs must answer.
///
/// Its statements are those that Prisma sends for create, delete by id and findMany, until it is moved to the functions.
final class ApplicationClient {
    /// Seconds within which a read may still be older than the last write.
    static let grace = 10.0
    static let pageSize = 50
    private static let writeShare = 0.1
    /// Of users who are deleted, and their reactions with them.
    private static let deletionShare = 0.0005

    private let session: PostgresConnection
    private let images: Int
    private var users: [Int]
    private let hotUsers: Int
    private var random: SplitMix
    private(set) var reactions: [Int: [Int: Int]]
    private var goneUsers: [(user: Int, images: [Int])] = []

    init(session: PostgresConnection, seed: UInt64, images: Int, reactions: [Int: [Int: Int]]) {
        self.session = session
        self.images = images
        self.reactions = reactions
        self.users = reactions.keys.sorted()
        self.hotUsers = max(users.count / 50, 1)
        self.random = SplitMix(seed: seed)
    }

    /// Works until it is told to stop, at a steady rate as long as the machine keeps up.
    func work(_ ways: borrowing Mutex<ApplicationWays>, _ record: borrowing Mutex<ApplicationRecord>, pause: Double) {
        do {
            var due = microseconds()
            while true {
                let now = ways.withLock { $0 }
                if now.isOver { return }
                let choice = Double.random(in: 0..<1, using: &random)
                if choice < Self.deletionShare {
                    try again(record) { try deleteUser() }
                } else if choice < Self.writeShare {
                    let write = try timedWrite(now, record)
                    record.withLock { $0.writes.append(write) }
                } else {
                    try read(now, record)
                }
                due = max(due + pause, microseconds() - 10 * pause)
                let wait = due - microseconds()
                if wait > 0 { usleep(UInt32(wait)) }
            }
        } catch {
            record.withLock { $0.failure = "\(error)" }
        }
    }

    /// Deletes a user, as the application does it: the foreign key takes the reactions along.
    private func deleteUser() throws {
        guard users.count > hotUsers, let user = users.last else { return }
        try session.query(#"DELETE FROM "User" WHERE id = $1"#, [String(user)])
        users.removeLast()
        goneUsers.append((user, reactions[user].map { Array($0.keys.prefix(Self.pageSize)) } ?? []))
        reactions[user] = [:]
    }

    // MARK: Reading

    private func read(_ ways: ApplicationWays, _ record: borrowing Mutex<ApplicationRecord>) throws {
        var user = anyUser()
        var page: [Int]
        if let gone = goneUsers.randomElement(using: &random), Int.random(in: 0..<20, using: &random) == 0 {
            user = gone.user
            page = gone.images
        } else {
            page = Array((reactions[user] ?? [:]).keys.prefix(Self.pageSize / 2))
            while page.count < Self.pageSize { page.append(anyImage()) }
        }
        let expected = reactions[user] ?? [:]
        let began = microseconds()
        var isLate = false
        while true {
            let answer: [Int: Int]
            do {
                answer = ways.readsByFunctions ? try flags(user, page) : try rows(user, page)
            } catch let error as PostgresError where error.sqlstate.hasPrefix("08") {
                record.withLock { $0.unknownReads += 1 }
                continue
            }
            let wrong = page.first { answer[$0, default: 0] != expected[$0, default: 0] }
            let seconds = (microseconds() - began) / 1e6
            guard let wrong else {
                record.withLock {
                    $0.reads += 1
                    if isLate {
                        $0.lateReads += 1
                        $0.longestLate = max($0.longestLate, seconds)
                    }
                }
                return
            }
            isLate = true
            if seconds > Self.grace {
                record.withLock {
                    $0.reads += 1
                    $0.wrongReads.append(
                        "user \(user), image \(wrong): \(answer[wrong, default: 0]), not \(expected[wrong, default: 0])"
                    )
                }
                return
            }
            usleep(20_000)
        }
    }

    private func rows(_ user: Int, _ page: [Int]) throws -> [Int: Int] {
        let places = page.indices.map { "$\($0 + 2)" }.joined(separator: ",")
        var found: [Int: Int] = [:]
        for row in try session.query(
            """
            SELECT "id", "imageId", "userId", "reaction"::text, "createdAt" FROM "public"."ImageReaction" \
            WHERE ("userId" = $1 AND "imageId" IN (\(places)))
            """, [String(user)] + page.map { String($0) })
        {
            found[Int(row[1] ?? "") ?? 0, default: 0] |= Kinds.flag(row[3] ?? "")
        }
        return found
    }

    private func flags(_ user: Int, _ page: [Int]) throws -> [Int: Int] {
        let ids = "{" + page.map { String($0) }.joined(separator: ",") + "}"
        var found: [Int: Int] = [:]
        for row in try session.query(
            "SELECT entity_id, flags FROM reactions.flags_many($1, $2, 'Image')", [String(user), ids])
        {
            found[Int(row[0] ?? "") ?? 0] = Int(row[1] ?? "")
        }
        return found
    }

    // MARK: Writing

    private func timedWrite(
        _ ways: ApplicationWays, _ record: borrowing Mutex<ApplicationRecord>
    ) throws -> ApplicationRecord.Write {
        let user = anyUser()
        let known = reactions[user] ?? [:]
        let began = microseconds()
        if let (image, flags) = known.randomElement(using: &random), Bool.random(using: &random) {
            let kind = Kinds.names.first { flags & Kinds.flag($0) != 0 } ?? "Like"
            try again(record) { try remove(user, image, kind, ways) }
            reactions[user, default: [:]][image] = flags & ~Kinds.flag(kind)
            if flags == Kinds.flag(kind) { reactions[user]?[image] = nil }
        } else {
            let image = anyImage()
            let kind = Kinds.names.randomElement(using: &random) ?? "Like"
            if known[image, default: 0] & Kinds.flag(kind) == 0 {
                try again(record) { try create(user, image, kind, ways) }
                reactions[user, default: [:]][image, default: 0] |= Kinds.flag(kind)
            }
        }
        return .init(began: began, ended: microseconds())
    }

    /// As an application has to: a transaction that was refused with 40001 is done again.
    private func again(_ record: borrowing Mutex<ApplicationRecord>, _ body: () throws -> Void) throws {
        while true {
            do {
                return try body()
            } catch let error as PostgresError where error.sqlstate == "40001" {
                record.withLock { $0.retried += 1 }
            }
        }
    }

    private func create(_ user: Int, _ image: Int, _ kind: String, _ ways: ApplicationWays) throws {
        if ways.writesByFunctions {
            try session.query(
                "SELECT reactions.react($1, $2, $3, 'Image')", [String(user), String(image), kind])
        } else {
            try session.query(
                """
                INSERT INTO "public"."ImageReaction" ("imageId", "userId", "reaction") VALUES ($1, $2, $3) \
                RETURNING "id", "imageId", "userId", "reaction"::text, "createdAt"
                """, [String(image), String(user), kind])
        }
    }

    private func remove(_ user: Int, _ image: Int, _ kind: String, _ ways: ApplicationWays) throws {
        if ways.writesByFunctions {
            try session.query(
                "SELECT reactions.unreact($1, $2, $3, 'Image')", [String(user), String(image), kind])
            return
        }
        let id = try session.value(
            """
            SELECT "id" FROM "public"."ImageReaction" WHERE ("userId" = $1 AND "imageId" = $2 AND "reaction" = $3) LIMIT 1
            """, [String(user), String(image), kind])
        try session.query(#"DELETE FROM "public"."ImageReaction" WHERE "id" = $1"#, [id])
    }

    // MARK: Choosing

    /// Mostly one of the few who are here at the moment.
    private func anyUser() -> Int {
        let isHot = Int.random(in: 0..<100, using: &random) > 0
        return users[Int.random(in: 0..<(isHot ? hotUsers : users.count), using: &random)]
    }

    private func anyImage() -> Int { Int.random(in: 1...images, using: &random) }
}

/// The kinds of the table and their flags.
enum Kinds {
    static let names = ["Like", "Heart", "Laugh", "Cry"]

    static func flag(_ name: String) -> Int {
        names.firstIndex(of: name).map { 1 << $0 } ?? 0
    }
}
