public import ClickHouseStore
public import ReactionModel

/// A piece of what a table has missed, as `reactions._write_back` takes it.
public struct WriteBackPage: Equatable, Sendable {
    /// What is done to one reaction at one time.
    public struct Step: Equatable, Sendable {
        public var userID: Int64
        public var entityID: Int64
        public var setMask: Int32
        public var clearMask: Int32
        /// Microseconds since 1970-01-01 UTC.
        public var createdAt: Int64

        public init(userID: Int64, entityID: Int64, setMask: Int32, clearMask: Int32, createdAt: Int64) {
            self.userID = userID
            self.entityID = entityID
            self.setMask = setMask
            self.clearMask = clearMask
            self.createdAt = createdAt
        }
    }

    public var steps: [Step] = []
    /// Reactions, each of one or more steps.
    public var keys = 0

    public init() {}

    /// Cuts kinds, in the order of (user, entity, time), into pages; no reaction is cut.
    public static func pages(of kinds: [WriteBackQuery.Kind], mode: Mode, keysPerPage: Int) -> [WriteBackPage] {
        var pages: [WriteBackPage] = []
        var page = WriteBackPage()
        var rest = kinds[...]
        while let first = rest.first {
            let next = rest.firstIndex { ($0.userID, $0.entityID) != (first.userID, first.entityID) } ?? rest.endIndex
            page.steps += steps(of: rest[..<next], mode: mode)
            page.keys += 1
            rest = rest[next...]
            if page.keys == keysPerPage {
                pages.append(page)
                page = WriteBackPage()
            }
        }
        if page.keys > 0 { pages.append(page) }
        return pages
    }

    /// First what is to be cleared, then what is set, by time. A kind that was taken away and set again is cleared first, so that its row
    /// gets the new time; the row of an exclusive reaction whose kind has changed is kept, and changed.
    private static func steps(of kinds: ArraySlice<WriteBackQuery.Kind>, mode: Mode) -> [Step] {
        guard let key = kinds.first else { return [] }
        func step(set: Int32 = 0, clear: Int32 = 0, _ createdAt: Int64) -> Step {
            Step(userID: key.userID, entityID: key.entityID, setMask: set, clearMask: clear, createdAt: createdAt)
        }
        var cleared: Int32 = 0
        var setAgain: Int32 = 0
        var steps: [Step] = []
        for kind in kinds {
            if !kind.isSet { cleared |= kind.flag }
            if kind.isSet, kind.wasCleared { setAgain |= kind.flag }
            guard kind.isSet else { continue }
            if let last = steps.last, last.createdAt == kind.createdAt {
                steps[steps.count - 1].setMask |= kind.flag
            } else {
                steps.append(step(set: kind.flag, kind.createdAt))
            }
        }
        if mode == .exclusive, steps.count == 1, setAgain == 0 {
            steps[0].clearMask = cleared
        } else if cleared | setAgain != 0 {
            steps.insert(step(clear: cleared | setAgain, key.createdAt), at: 0)
        }
        return steps
    }
}
