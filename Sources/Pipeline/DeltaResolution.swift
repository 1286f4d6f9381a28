public import ReactionModel

extension [Event] {
    /// The keys whose state before has to be known to resolve every event.
    public func keysToResolve(_ catalog: [Int16: EntityType]) -> [ReactionKey] {
        var keys: Set<ReactionKey> = []
        return compactMap { event in
            guard !event.isDeltaKnown, event.scope == .reaction else { return nil }
            let key = event.key(catalog)
            return keys.insert(key).inserted ? key : nil
        }
    }

    /// The same events with every delta known: set and clear masks are what changed, possibly nothing. A bit of which nothing was known
    /// before counts as changed; sealing the backfill makes up for that.
    ///
    /// - Parameter before: the flags before the first event, of `keysToResolve`; 0 if absent.
    public func resolved(before: [ReactionKey: KnownFlags], _ catalog: [Int16: EntityType]) -> [Event] {
        var state: [ReactionKey: KnownFlags] = [:]
        for key in keysToResolve(catalog) { state[key] = before[key] ?? KnownFlags() }
        guard !state.isEmpty else { return self }
        return map { event in
            guard event.scope == .reaction else { return event }
            let key = event.key(catalog)
            guard let known = state[key] else { return event }
            state[key] = KnownFlags(
                flags: known.flags.applying(setMask: event.setMask, clearMask: event.clearMask),
                unknown: known.unknown & ~(event.setMask | event.clearMask))
            guard !event.isDeltaKnown else { return event }
            var event = event
            event.clearMask = event.clearMask & ~event.setMask & (known.flags | known.unknown)
            event.setMask = event.setMask & (~known.flags | known.unknown)
            event.isDeltaKnown = true
            return event
        }
    }
}

extension Event {
    /// The event's reaction, in the era of the event.
    public func key(_ catalog: [Int16: EntityType]) -> ReactionKey {
        ReactionKey(
            typeID: typeID, userID: userID, entityID: entityID,
            era: catalog[typeID]?.era(of: version)?.version ?? .zero)
    }
}
