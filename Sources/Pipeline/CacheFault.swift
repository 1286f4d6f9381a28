/// What can be wrong with a key of Redis that this database has made.
public enum CacheFault: String, CaseIterable, Codable, Sendable {
    /// A key has another type than it must have: somebody else has written it.
    case wrongType = "wrong_type"
    /// A list or a sample without counts.
    case noCounts = "no_counts"
    /// Counts without what belongs to them: the list, or the sample, total and flag of a viral entity.
    case missingPart = "missing_part"
    /// The list, or sample, is of another life of the entity.
    case wrongNonce = "wrong_nonce"
    /// Keys of the other tier.
    case leftover
    /// A sample that has lost so many that a first page has to ask ClickHouse.
    case shrunkSample = "shrunk_sample"
    /// The counts are not those of ClickHouse, or disagree among themselves.
    case drift
    /// The deltas of ClickHouse are not the sum of its events. Nothing in Redis is to blame.
    case wrongDeltas = "wrong_deltas"
    /// A watermark, or a list of entities, of a type or shard that does not exist.
    case orphan

    public enum Repair: Sendable {
        /// Every key of the entity is dropped, and the agent asked to build it anew.
        case rebuild
        /// What should not be there is dropped.
        case drop
        /// An operator's.
        case none
    }

    public var repair: Repair {
        switch self {
        case .wrongType, .missingPart, .wrongNonce, .shrunkSample, .drift: .rebuild
        case .noCounts, .leftover, .orphan: .drop
        case .wrongDeltas: .none
        }
    }
}
