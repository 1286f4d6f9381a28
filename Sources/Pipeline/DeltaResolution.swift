public import ReactionModel

extension [Event] {
    /// The keys whose state before has to be known to resolve every event.
    public var keysToResolve: [ReactionKey] {
        var keys: Set<ReactionKey> = []
        return compactMap { event in
            guard !event.isDeltaKnown, event.scope == .reaction, keys.insert(event.key).inserted else { return nil }
            return event.key
        }
    }

    /// The same events with every delta known: set and clear masks are what changed, possibly nothing.
    ///
    /// - Parameter before: the flags before the first event, of `keysToResolve`; 0 if absent.
    public func resolved(before: [ReactionKey: Int32]) -> [Event] {
        var state: [ReactionKey: Int32] = [:]
        for key in keysToResolve { state[key] = before[key, default: 0] }
        guard !state.isEmpty else { return self }
        return map { event in
            guard event.scope == .reaction, let flags = state[event.key] else { return event }
            let after = flags.applying(setMask: event.setMask, clearMask: event.clearMask)
            state[event.key] = after
            guard !event.isDeltaKnown else { return event }
            var event = event
            event.setMask = after & ~flags
            event.clearMask = flags & ~after
            event.isDeltaKnown = true
            return event
        }
    }
}

extension Event {
    public var key: ReactionKey { ReactionKey(typeID: typeID, userID: userID, entityID: entityID) }
}
