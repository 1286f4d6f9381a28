import CReactionsBoundary
import ReactionModel
import RedisStore

/// What one backend keeps between exchanges.
final class Session {
    private(set) var settings = Settings()
    let tally = Tally()
    private(set) var redis: Redis
    private(set) var clickHouse: ClickHouseLink
    let apply = ApplyAtCommit()
    /// Until when nobody waits for the agent to install what was missed, since it was waited for in vain.
    var installsAbsent = Deadline(after: 0, from: 0)
    private var types: [TypeDescription] = []
    private var constantTexts: [KeyTemplate.Problem: LentText] = [:]

    init() {
        redis = Redis(settings: settings, tally: tally)
        clickHouse = ClickHouseLink(settings: settings, tally: tally)
    }

    /// Connections that the settings still describe are kept.
    func configure(_ settings: Settings) {
        guard settings != self.settings else { return }
        self.settings = settings
        installsAbsent = Deadline(after: 0, from: 0)
        disconnect()
        redis = Redis(settings: settings, tally: tally)
        clickHouse = ClickHouseLink(settings: settings, tally: tally)
    }

    /// Keys of entities are other ones in a cluster: they are made when a conversation with Redis is open.
    var keys: KeySpace { KeySpace(prefix: settings.keyPrefix, isCluster: redis.isCluster) }

    /// The copy of the type, made when it is first used or has changed.
    func type(_ type: UnsafePointer<rx_type>?) throws(Failure) -> TypeDescription {
        guard let type = type?.pointee else { throw .brokenContract("There is no entity type.") }
        if let known = types.first(where: { $0.describes(type) }) { return known }
        let description = try TypeDescription(type)
        // What was read of the catalog earlier is not asked for again, or only until the transaction ends.
        types.removeAll { $0.name == description.name }
        types.append(description)
        return description
    }

    /// The text at an address that stays.
    func constantText(of problem: KeyTemplate.Problem) -> UnsafePointer<CChar>? {
        let text = constantTexts[problem] ?? LentText(problem.rawValue)
        constantTexts[problem] = text
        return text.start
    }

    func disconnect() {
        apply.abandon()
        redis.close()
        clickHouse.close()
    }
}

/// Safe because: a backend has one thread, and nothing that is called from here calls back into an entry.
private nonisolated(unsafe) let session = Session()

/// The choke point: every function of the header passes through here.
func entry<Answer>(_ body: (Session) -> Answer) -> Answer {
    body(session)
}
