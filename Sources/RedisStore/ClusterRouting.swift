/// How one pipeline goes through a cluster: in rounds, of which each sends a part of the commands to each server.
///
/// A command that is answered with a redirection was not carried out, and is part of the next round. A value without effects: who uses it
/// sends and tells what was answered.
public struct ClusterRouting {
    public struct Part {
        public var place: RedisPlace
        /// Whether each command is for a slot that is on its way to the server.
        public var isAsking: Bool
        /// Their numbers, rising.
        public var commands: [Int]
    }

    public enum Round: Equatable {
        case atOnce
        /// Keys that are on their way need a moment.
        case afterPause
    }

    /// More redirections than this go in circles.
    public static let mostRedirections = 5

    /// By what is known now.
    public private(set) var slots: ClusterSlots
    /// Whether that has turned out to be out of date, or may be.
    public private(set) var isOutdated = false
    /// The parts of this round, at most one per server.
    public private(set) var parts: [Part] = []
    /// Commands on keys of slots that nobody is known to have.
    public private(set) var unplaced: [Int] = []

    private var again: [(command: Int, place: RedisPlace, isAsking: Bool)] = []
    private var redirections = 0
    private var pauses = false

    public init(_ commands: CommandBuffer, slots: ClusterSlots) {
        self.slots = slots
        // Whoever is asked anything may be asked what is for nobody in particular.
        var anybody = slots.owners.first
        for command in 0..<commands.commandCount {
            let slot = commands.slot(of: command)
            if let place = slot == nil ? anybody : slot.flatMap({ slots[$0] }) {
                anybody = place
                again.append((command, place, false))
            } else {
                unplaced.append(command)
            }
        }
        if !unplaced.isEmpty { isOutdated = true }
        regroup()
    }

    /// A server has answered a command with an error. Returns whether the command is sent again, so that this is not its answer.
    public mutating func follow(_ error: some Collection<UInt8>, to command: Int, of part: Part) -> Bool {
        if error.starts(with: "CLUSTERDOWN".utf8) { isOutdated = true }
        guard redirections < Self.mostRedirections, let redirection = Redirection(error, from: part.place) else {
            return false
        }
        switch redirection {
        case .moved(let slot, let place):
            slots.assign(slot...slot, to: place)
            isOutdated = true
            again.append((command, place, false))
        case .ask(let place):
            again.append((command, place, true))
        case .tryAgain:
            pauses = true
            again.append((command, part.place, part.isAsking))
        }
        return true
    }

    /// The server of a part could not be asked.
    public mutating func partFailed() {
        isOutdated = true
    }

    /// How many commands are to be sent again.
    public var openCount: Int { again.count }

    /// Begins the next round; nil when every command has its answer.
    public mutating func nextRound() -> Round? {
        guard !again.isEmpty else { return nil }
        defer { pauses = false }
        regroup()
        // Whoever waits for keys on their way does so until its deadline.
        if !pauses { redirections &+= 1 }
        return pauses ? .afterPause : .atOnce
    }

    /// Gives up the commands that would be sent again, and returns them.
    public mutating func giveUp() -> [Int] {
        defer { again = [] }
        return again.map(\.command)
    }

    private mutating func regroup() {
        parts = []
        var later: [(command: Int, place: RedisPlace, isAsking: Bool)] = []
        var known: [RedisPlace: Int] = [:]
        for one in again.sorted(by: { $0.command < $1.command }) {
            if let index = known[one.place] {
                if parts[index].isAsking == one.isAsking {
                    parts[index].commands.append(one.command)
                } else {
                    later.append(one)
                }
            } else {
                known[one.place] = parts.count
                parts.append(Part(place: one.place, isAsking: one.isAsking, commands: [one.command]))
            }
        }
        again = later
    }
}
