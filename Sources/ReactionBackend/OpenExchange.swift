/// Makes sure of connections to whom the events of an apply at commit are for, which may not connect by then.
final class OpenExchange: Exchange {
    private enum State {
        /// Can transition to: finding, done.
        case idle
        /// Can transition to: opening.
        case finding
        /// Can transition to: done.
        case opening
        case done
    }

    private var state = State.idle
    private var links: [RedisLink] = []

    override func advance(at now: Int64) -> Step {
        do throws(Failure) {
            while true {
                switch state {
                case .idle:
                    guard session.apply.isPending else { return .done }
                    try startRedis { redis throws(Failure) in try redis.open(at: now, withScripts: true) }
                    state = .finding
                case .finding:
                    if let wait = try pollRedis(at: now) { return .wait(wait) }
                    links = session.apply.servers(of: session)
                    try openNext(now)
                case .opening:
                    if let wait = pollOpening(now) { return .wait(wait) }
                    try openNext(now)
                case .done:
                    return .done
                }
            }
        } catch {
            return .failed(error)
        }
    }

    private func openNext(_ now: Int64) throws(Failure) {
        guard let link = links.popLast() else { return state = .done }
        state = .opening
        do throws(Failure) {
            try startRedis { redis throws(Failure) in try redis.open(link, at: now, withScripts: true) }
        } catch {
            // What is for a server that is down is the agent's; the others get theirs.
            if links.isEmpty { throw error }
            try openNext(now)
        }
    }

    private func pollOpening(_ now: Int64) -> Wait? {
        do throws(Failure) { return try pollRedis(at: now) } catch { return nil }
    }
}
