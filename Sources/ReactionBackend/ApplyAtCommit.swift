import CReactionsBoundary
import RedisStore

/// Applies a transaction's events to the user maps while it commits.
///
/// Best effort: the agent offers the same events again. Never connects, never fails, sends nothing twice. What was prepared is bound
/// to the connection it was prepared on, whose server is in the stamp.
final class ApplyAtCommit {
    private enum State {
        /// Nothing is prepared. Can transition to: prepared.
        case empty
        /// Can transition to: sent, empty.
        case prepared(connection: UInt64)
        /// Can transition to: empty.
        case sent
    }

    private var state = State.empty
    private var commands = CommandBuffer()
    private var eventCount = 0

    /// Returns the number of events that are pending afterwards.
    func prepare(_ session: Session, _ type: UnsafePointer<rx_type>?, _ events: UnsafeBufferPointer<rx_event>) -> Int {
        if case .sent = state { return 0 }
        guard session.redis.isReady, let digest = session.redis.digests?.apply else {
            abandon(session)
            return 0
        }
        if case .prepared(let connection) = state, connection != session.redis.serial { abandon(session) }
        do throws(Failure) {
            append(events, try session.type(type), digest, session)
        } catch {
            return eventCount
        }
        if eventCount > 0 { state = .prepared(connection: session.redis.serial) }
        return eventCount
    }

    func step(_ session: Session) -> rx_wait {
        let now = monotonicMilliseconds()
        do throws(Failure) {
            switch state {
            case .empty:
                return rx_wait(RX_DONE)
            case .prepared(let connection):
                guard session.redis.isReady, session.redis.serial == connection else { break }
                try session.redis.send(usesScripts: true, mayRetry: false, at: now) {
                    $0.append(commandsOf: commands)
                }
                state = .sent
                if let wait = try session.redis.advance(now) { return wait.forC }
            case .sent:
                if let wait = try session.redis.advance(now) { return wait.forC }
            }
        } catch {
            session.redis.close()
        }
        clear()
        return rx_wait(RX_DONE)
    }

    func abandon(_ session: Session) {
        if case .sent = state { session.redis.close() }
        clear()
    }

    private func clear() {
        state = .empty
        eventCount = 0
        commands.removeAll()
    }

    /// One command per user, its events in the order in which they came.
    private func append(
        _ events: UnsafeBufferPointer<rx_event>, _ type: TypeDescription, _ digest: [UInt8], _ session: Session
    ) {
        let ordered = events.enumerated().sorted { ($0.element.user_id, $0.offset) < ($1.element.user_id, $1.offset) }
        var rest = ordered[...]
        while let first = rest.first?.element {
            let ofUser = rest.prefix { $0.element.user_id == first.user_id }
            rest = rest.dropFirst(ofUser.count)
            let address = type.userMap(of: first.user_id, session.keys, redisRunID: session.redis.runID)
            commands.beginApply(address, digest: digest, events: ofUser.count)
            for (_, event) in ofUser {
                commands.appendEvent(
                    entityID: event.entity_id, setMask: event.set_mask, clearMask: event.clear_mask,
                    version: event.version)
            }
            eventCount += ofUser.count
        }
    }
}
