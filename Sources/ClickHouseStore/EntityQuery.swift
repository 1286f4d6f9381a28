public import ReactionModel

/// What ClickHouse says of entities of one type as of a batch: everything that a backfill has brought, and the mirror's batches up to it.
///
/// Answers are in RowBinary. `counts` answers `Count`s, everything else `Row`s. A whole list is read by `reactors(of:)`. A page of a list
/// that is too long for that takes two questions, `candidates` and `reactors(among:of:)`, and `Page` between them:
///
///     let page = EntityQuery.Page(candidates: rows(client.query(query.candidates(of: entity, below: cursor, limit: 2_000))), limit: 2_000)
///     let reactors = page.reactors(rows(client.query(query.reactors(among: page.users, of: entity))), below: cursor)
///     // Everybody below the cursor down to page.floor; the next page is below page.floor, which is nil at the end.
///
/// The order is that of `ReactionPosition`, descending.
public struct EntityQuery: Sendable {
    /// Ids per query: below 256 KiB of text and 50,000 elements, where ClickHouse stops parsing by default.
    public static let idsPerQuery = 10_000

    let type: EntityType
    private let batch: BatchNumber
    /// Of the batch's chunks, the last that counts.
    private let part: Int32

    public init(type: EntityType, asOf batch: BatchNumber, part: Int32 = .max) {
        self.type = type
        self.batch = batch
        self.part = part
    }

    /// The kinds' counts; those of 0 are left out. A chunk's delta counts once, however often it is there.
    public func counts(of entities: some Collection<Int64>) -> String {
        """
        SELECT entity, flag, sum(change) AS total FROM (\
        SELECT toInt64(entityId) AS entity, \(SQL.flag(of: type.kinds)) AS flag, toInt64(any(delta)) AS change \
        FROM reactionDeltas WHERE \(condition) AND entityId IN (\(Self.list(entities))) \
        GROUP BY entityId, metricType, batch, part) \
        WHERE flag != 0 GROUP BY entity, flag HAVING total != 0 FORMAT RowBinary
        """
    }

    /// Everybody who has a reaction on one of the entities; by entity, newest first.
    public func reactors(of entities: some Collection<Int64>) -> String {
        """
        SELECT entity, user, newest.1, newest.2, flags FROM (\
        SELECT toInt64(entityId) AS entity, toInt64(userId) AS user, max((toInt64(version), \(Self.time))) AS newest, \
        \(flagsOfMasks) AS flags \
        FROM reactionsByEntity WHERE \(condition) AND entityId IN (\(Self.list(entities))) GROUP BY entityId, userId) \
        WHERE flags != 0 ORDER BY entity, newest DESC, user DESC FORMAT RowBinary
        """
    }

    /// The users of the newest events of an entity below a position, with repetitions; flags are 0.
    public func candidates(of entity: Int64, below position: ReactionPosition?, limit: Int) -> String {
        let below = position.map { position in
            """
             AND version <= \(position.version.rawValue) AND (version < \(position.version.rawValue) \
            OR (\(Self.time), toInt64(userId)) < (toUInt32(\(position.time)), toInt64(\(position.userID))))
            """
        }
        return """
            SELECT toInt64(entityId), toInt64(userId), toInt64(version), \(Self.time), toInt32(0) \
            FROM reactionsByEntity WHERE \(condition) AND entityId = \(entity)\(below ?? "") \
            ORDER BY version DESC, \(Self.time) DESC, userId DESC LIMIT \(limit) FORMAT RowBinary
            """
    }

    /// Those of the users who have a reaction on the entity, in any order. At least one user, at most `idsPerQuery`.
    public func reactors(among users: some Collection<Int64>, of entity: Int64) -> String {
        """
        SELECT toInt64(\(entity)), user, latest.1, latest.2, flags FROM (\
        SELECT user, max(newest) AS latest, toInt32(sum(flag * isSet)) AS flags FROM (\
        SELECT toInt64(userId) AS user, \(SQL.flag(of: type.kinds)) AS flag, argMax(metricValue, version) > 0 AS isSet, \
        max((toInt64(version), \(Self.time))) AS newest \
        FROM entityMetricEvents WHERE \(condition) AND userId IN (\(Self.list(users))) AND entityId = \(entity) \
        GROUP BY userId, metricType) GROUP BY user) WHERE flags != 0 FORMAT RowBinary
        """
    }

    /// What the server cleared of users who are gone, as one chunk: by user and entity, above the one given. The flags are those cleared.
    ///
    /// - Parameter users: at least one, at most `idsPerQuery`.
    public func clears(
        of users: some Collection<Int64>, in part: Int32, above last: (userID: Int64, entityID: Int64)?, limit: Int
    ) -> String {
        let above = last.map { " AND (userId > \($0.userID) OR userId = \($0.userID) AND entityId > \($0.entityID))" }
        return """
            SELECT entity, user, newest.1, newest.2, flags FROM (\
            SELECT toInt64(entityId) AS entity, toInt64(userId) AS user, max((toInt64(version), \(Self.time))) AS newest, \
            toInt32(groupBitOr(toUInt32(\(SQL.flag(of: type.kinds))))) AS flags \
            FROM entityMetricEvents WHERE entityType = \(SQL.quoted(type.name)) AND userId IN (\(Self.list(users))) \
            AND batch = \(batch.rawValue) AND part = \(part)\(above ?? "") GROUP BY userId, entityId) \
            ORDER BY user, entity LIMIT \(limit) FORMAT RowBinary
            """
    }

    // MARK: Answers

    public struct Count: Equatable, Sendable {
        public var entityID: Int64
        public var flag: Int32
        public var count: Int64
    }

    public struct Row: Equatable, Sendable {
        public var entityID: Int64
        public var reactor: Reactor

        public init(entityID: Int64, reactor: Reactor) {
            self.entityID = entityID
            self.reactor = reactor
        }
    }

    private static let countWidth = 20
    private static let rowWidth = 32

    /// Nil if the answer does not consist of counts to its last byte.
    public static func counts(_ answer: [UInt8]) -> [Count]? {
        guard answer.count.isMultiple(of: countWidth) else { return nil }
        return answer.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: countWidth).map { start in
                Count(
                    entityID: number(bytes, start), flag: number(bytes, start &+ 8), count: number(bytes, start &+ 12))
            }
        }
    }

    /// Nil if the answer does not consist of rows to its last byte.
    public static func rows(_ answer: [UInt8]) -> [Row]? {
        guard answer.count.isMultiple(of: rowWidth) else { return nil }
        return answer.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: rowWidth).map { start in
                let position = ReactionPosition(
                    version: Version(rawValue: number(bytes, start &+ 16)), time: number(bytes, start &+ 24),
                    userID: number(bytes, start &+ 8))
                return Row(
                    entityID: number(bytes, start),
                    reactor: Reactor(position: position, flags: number(bytes, start &+ 28)))
            }
        }
    }

    private static func number<Number: FixedWidthInteger & BitwiseCopyable>(
        _ bytes: UnsafeRawBufferPointer, _ offset: Int
    ) -> Number {
        Number(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Number.self))
    }

    /// A stretch of the events of an entity, newest first, and whom it tells of.
    public struct Page: Sendable {
        /// Without repetitions.
        public var users: [Int64]
        /// Everybody below the cursor who is at or above it is in the page; nil if the page is the last one.
        public var floor: ReactionPosition?

        /// - Parameter limit: of the question.
        public init(candidates: [Row], limit: Int) {
            var seen: Set<Int64> = []
            users = candidates.map(\.reactor.position.userID).filter { seen.insert($0).inserted }
            floor = candidates.count < limit ? nil : candidates.last?.reactor.position
        }

        /// The page in order. A user whose newest event is above the cursor was told before.
        public func reactors(_ rows: [Row], below cursor: ReactionPosition?) -> [Reactor] {
            rows.map(\.reactor).filter { reactor in
                (cursor.map { reactor.position < $0 } ?? true) && (floor.map { reactor.position >= $0 } ?? true)
            }
            .sorted { $0.position > $1.position }
        }
    }

    // MARK: Pieces

    /// Sealed backfills count whole: their batches are not the mirror's.
    var condition: String {
        let counts =
            part == .max
            ? "batch <= \(batch.rawValue)"
            : "batch < \(batch.rawValue) OR batch = \(batch.rawValue) AND part <= \(part)"
        return "entityType = \(SQL.quoted(type.name)) AND (\(counts) OR bitAnd(batch, \(BackfillBatches.mark)) != 0)"
    }

    /// As `ReactionPosition` has it, of either form of the column.
    static let time =
        "toUInt32(least(greatest(toInt64(createdAt), toInt64(0)), toInt64(\(ReactionPosition.latestTime))))"

    /// Each kind as of the newest event that speaks of it.
    var flagsOfMasks: String {
        let terms = type.kinds.map { kind in
            let flag = kind.flag
            return """
                toInt32(argMaxIf(bitAnd(setMask, \(flag)), version, bitAnd(bitOr(setMask, clearMask), \(flag)) != 0))
                """
        }
        return terms.isEmpty ? "toInt32(0)" : "toInt32(\(terms.joined(separator: " + ")))"
    }

    static func list(_ ids: some Collection<Int64>) -> String {
        ids.lazy.map(String.init).joined(separator: ",")
    }
}
