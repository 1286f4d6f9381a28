import CReactionsBoundary
import ReactionModel
import RedisStore

/// Applies a transaction's events to the user maps while it commits.
///
/// Best effort: the agent offers the same events again. Never connects, never fails, sends nothing twice. All servers are sent their
/// part before the first answer is waited for. A stamp is made of the server that it is sent to.
final class ApplyAtCommit {
    private struct Call {
        var type: TypeDescription
        var key: [UInt8]
        var events: [rx_event]

        func append(to commands: inout CommandBuffer, _ digest: [UInt8], _ history: [UInt8]) {
            let map = UserMapAddress(key: key, stamp: type.stamp(redisHistory: history))
            commands.beginApply(map, digest: digest, events: events.count)
            for event in events {
                commands.appendEvent(
                    entityID: event.entity_id, setMask: event.set_mask, clearMask: event.clear_mask,
                    version: event.version)
            }
        }
    }

    private enum State {
        /// Events are noted, or none. Can transition to: sent.
        case noting
        /// What is left to be answered. Can transition to: noting.
        case sent([RedisLink])
    }

    private var state = State.noting
    private var calls: [Call] = []

    var isPending: Bool { !calls.isEmpty }

    /// Who has the maps that the events are for, as far as is known.
    func servers(of session: Session) -> [RedisLink] {
        calls.reduce(into: []) { links, call in
            guard let link = session.redis.server(for: call.key), !links.contains(where: { $0 === link }) else {
                return
            }
            links.append(link)
        }
    }

    /// Returns the number of events that are noted afterwards.
    func prepare(_ session: Session, _ type: UnsafePointer<rx_type>?, _ events: UnsafeBufferPointer<rx_event>) -> Int {
        if case .sent = state { return 0 }
        if let type = try? session.type(type) { note(events, type, session) }
        return calls.reduce(0) { $0 + $1.events.count }
    }

    func step(_ session: Session) -> rx_wait {
        let now = monotonicMilliseconds()
        if case .noting = state { state = .sent(send(session, now)) }
        while case .sent(var links) = state, let link = links.first {
            do throws(Failure) {
                if let wait = try link.advance(now) { return wait.forC }
                session.redis.noteMove(link)
            } catch {
                // The link has closed itself.
            }
            links.removeFirst()
            state = .sent(links)
        }
        clear()
        return rx_wait(RX_DONE)
    }

    func abandon() {
        if case .sent(let links) = state {
            for link in links where !link.isIdle { link.close() }
        }
        clear()
    }

    private func clear() {
        state = .noting
        calls.removeAll()
    }

    /// One call per user, its events in the order in which they came.
    private func note(_ events: UnsafeBufferPointer<rx_event>, _ type: TypeDescription, _ session: Session) {
        let ordered = events.enumerated().sorted { ($0.element.user_id, $0.offset) < ($1.element.user_id, $1.offset) }
        var rest = ordered[...]
        while let first = rest.first?.element {
            let ofUser = rest.prefix { $0.element.user_id == first.user_id }
            rest = rest.dropFirst(ofUser.count)
            let key = session.keys.key(type.userMapKey, id: first.user_id, shardCount: type.shardCount)
            calls.append(Call(type: type, key: key, events: ofUser.map(\.element)))
        }
    }

    /// Sends each server its calls. Returns those who have to answer.
    private func send(_ session: Session, _ now: Int64) -> [RedisLink] {
        servers(of: session).filter { link in
            guard link.isReady, let digest = link.digests?.apply, let history = link.identity?.history else {
                return false
            }
            do throws(Failure) {
                try link.send(usesScripts: true, mayRetry: false, at: now) { commands in
                    for call in calls where session.redis.server(for: call.key) === link {
                        call.append(to: &commands, digest, history)
                    }
                }
                _ = try link.advance(now)
                return true
            } catch {
                return false
            }
        }
    }
}
