import CReactionsBoundary
import ReactionModel
import RedisStore

/// What one backend keeps between exchanges.
final class Session {
    private(set) var settings = Settings()
    let tally = Tally()
    private(set) var redis: RedisLink
    private(set) var clickHouse: ClickHouseLink
    private(set) var keys = KeySpace(prefix: [])
    let apply = ApplyAtCommit()
    private var constantTexts: [KeyTemplate.Problem: LentText] = [:]

    init() {
        redis = RedisLink(settings: settings, tally: tally)
        clickHouse = ClickHouseLink(settings: settings, tally: tally)
    }

    /// Connections that the settings still describe are kept.
    func configure(_ settings: Settings) {
        guard settings != self.settings else { return }
        self.settings = settings
        disconnect()
        redis = RedisLink(settings: settings, tally: tally, after: redis.serial)
        clickHouse = ClickHouseLink(settings: settings, tally: tally)
        keys = KeySpace(prefix: settings.keyPrefix)
    }

    /// The text at an address that stays.
    func constantText(of problem: KeyTemplate.Problem) -> UnsafePointer<CChar>? {
        let text = constantTexts[problem] ?? LentText(problem.rawValue)
        constantTexts[problem] = text
        return text.start
    }

    func disconnect() {
        apply.abandon(self)
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
