public import ReactionModel

/// Queries for which everything has to be read that ever happened to an entity.
extension EntityQuery {
    /// Entity and number of users who have any kind, of entities that somebody has ever reacted to.
    ///
    /// A kind's newest event decides whether the user has it. It is found as the largest of twice its version, plus one if it sets the
    /// kind: eight bytes for each user and kind are all that is kept.
    public func users(of entities: some Collection<Int64>) -> String {
        let newest = type.kinds.map { kind in
            """
            bitAnd(max(if(bitAnd(setMask, \(kind.flag)) != 0, toUInt64(version) * 2 + 1, \
            if(bitAnd(clearMask, \(kind.flag)) != 0, toUInt64(version) * 2, toUInt64(0)))), 1)
            """
        }
        return """
            SELECT toInt64(entityId), toInt64(sum(present > 0)) FROM (\
            SELECT entityId, \(newest.isEmpty ? "0" : newest.joined(separator: " + ")) AS present FROM reactionsByEntity \
            WHERE \(condition) AND entityId IN (\(Self.list(entities))) GROUP BY entityId, userId) \
            GROUP BY entityId FORMAT RowBinary
            """
    }

    /// Entity and an estimate, by HyperLogLog, of how many users have ever reacted. Exact as long as they are few.
    public func everReacted(of entities: some Collection<Int64>) -> String {
        """
        SELECT toInt64(entityId), toInt64(uniqCombined(userId)) FROM reactionsByEntity \
        WHERE \(condition) AND entityId IN (\(Self.list(entities))) AND setMask != 0 GROUP BY entityId FORMAT RowBinary
        """
    }

    /// The users who have ever reacted to an entity with one of the bits of `mask`, as rows that tell nothing else; at most one more than
    /// `idsPerQuery`.
    public func users(of entity: Int64, everWith mask: Int32) -> String {
        """
        SELECT DISTINCT toInt64(\(entity)), toInt64(userId), toInt64(0), toUInt32(0), toInt32(0) FROM reactionsByEntity \
        WHERE \(condition) AND entityId = \(entity) AND bitAnd(setMask, \(mask)) != 0 \
        LIMIT \(Self.idsPerQuery + 1) FORMAT RowBinary
        """
    }

    /// Those below a position who have one of the bits of `mask`: the newest `limit` of them, newest first. For when `candidates` are too
    /// many events of too few users.
    ///
    /// - Parameter users: who it may be, at most `idsPerQuery` and at least one; nil: everybody.
    public func page(
        of entity: Int64, mask: Int32, among users: [Int64]? = nil, below position: ReactionPosition?, limit: Int
    ) -> String {
        let below = position.map { position in
            """
             AND (version < \(position.version.rawValue) OR version = \(position.version.rawValue) \
            AND (time, user) < (toUInt32(\(position.time)), toInt64(\(position.userID))))
            """
        }
        let among = users.map { " AND userId IN (\(Self.list($0)))" }
        return """
            SELECT toInt64(\(entity)), user, version, time, flags FROM (\
            SELECT user, newest.1 AS version, newest.2 AS time, flags FROM (\
            SELECT toInt64(userId) AS user, max((toInt64(version), \(Self.time))) AS newest, \(flagsOfMasks) AS flags \
            FROM reactionsByEntity WHERE \(condition) AND entityId = \(entity)\(among ?? "") GROUP BY userId)) \
            WHERE bitAnd(flags, \(mask)) != 0\(below ?? "") ORDER BY version DESC, time DESC, user DESC LIMIT \(limit) \
            FORMAT RowBinary
            """
    }

    /// The answer to the first two; nil if it does not consist of numbers to its last byte.
    public static func numbers(_ answer: [UInt8]) -> [(entityID: Int64, number: Int64)]? {
        guard answer.count.isMultiple(of: 16) else { return nil }
        return answer.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: 16).map { start in
                (
                    Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: start, as: Int64.self)),
                    Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: start &+ 8, as: Int64.self))
                )
            }
        }
    }
}
