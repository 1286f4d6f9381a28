/// Makes sure of a connection to Redis before a commit, so that the apply at commit, which may not connect, has one.
final class OpenExchange: Exchange {
    private var hasBegun = false

    override func advance(at now: Int64) -> Step {
        do throws(Failure) {
            if !hasBegun {
                hasBegun = true
                try startRedis { link throws(Failure) in try link.open(at: now, withScripts: true) }
            }
            if let wait = try pollRedis(at: now) { return .wait(wait) }
            return .done
        } catch {
            return .failed(error)
        }
    }
}
