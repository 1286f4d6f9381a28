internal import Pipeline
public import ReactionModel

extension PostgresSource {
    /// The entity types as they are now.
    public func catalog() throws(PostgresError) -> [Int16: EntityType] {
        try Self.catalog(session)
    }

    /// The entity types with their kinds: small tables, read with every batch so that a raised epoch or a new kind is seen.
    static func catalog(_ session: PostgresConnection) throws(PostgresError) -> [Int16: EntityType] {
        let result = try session.query(
            """
            SELECT t.type_id, t.entity_type, t.mode, t.phase, t.user_map_key, t.entity_key, t.shard_count, t.epoch,
                   (SELECT string_agg(k.kind || ' ' || k.flag, ',' ORDER BY k.flag)
                    FROM reactions.kind k WHERE k.type_id = t.type_id),
                   (SELECT string_agg(concat_ws(' ', b.version, (b.read_at IS NOT NULL)::integer, b.complete_batch), ','
                                      ORDER BY b.version)
                    FROM reactions._backfill b WHERE b.type_id = t.type_id), t.backfilled
            FROM reactions.entity_type t
            """)
        var catalog: [Int16: EntityType] = [:]
        for row in result.rows {
            let name = try result.required(row, 1, as: String.self)
            guard let mode = Mode(rawValue: try result.required(row, 2)),
                let phase = Phase(rawValue: try result.required(row, 3)),
                let userMapKey = try? KeyTemplate(try result.required(row, 4), required: "<user>"),
                let entityKey = try? KeyTemplate(try result.required(row, 5), required: "<entity>")
            else {
                throw PostgresError(disposition: .stop, message: "entity type \(name) is not known to this version")
            }
            let kinds = (result.text(row, 8) ?? "").split(separator: ",").compactMap { pair -> Kind? in
                let parts = pair.split(separator: " ")
                guard parts.count == 2, let flag = Int32(parts[1]) else { return nil }
                return Kind(name: String(parts[0]), flag: flag)
            }
            let eras = (result.text(row, 9) ?? "").split(separator: ",").compactMap { text -> BackfillEra? in
                let parts = text.split(separator: " ").compactMap { Int64($0) }
                guard parts.count >= 2 else { return nil }
                return BackfillEra(
                    version: Version(rawValue: parts[0]),
                    completeBatch: parts.count > 2 ? BatchNumber(rawValue: parts[2]) : nil, isRead: parts[1] == 1)
            }
            let typeID = try result.required(row, 0, as: Int16.self)
            catalog[typeID] = EntityType(
                typeID: typeID, name: name, mode: mode, phase: phase, kinds: kinds, userMapKey: userMapKey,
                entityKey: entityKey, shardCount: try result.required(row, 6), epoch: try result.required(row, 7),
                eras: eras, isBackfilled: result.isTrue(row, 10))
        }
        return catalog
    }

    /// The table of a type; nil if it has none.
    static func legacyTable(of typeID: Int16, _ session: PostgresConnection) throws(PostgresError) -> LegacyTable? {
        let result = try session.query(
            """
            SELECT legacy_table::text, quote_ident(user_column), quote_ident(entity_column), quote_ident(kind_column),
                   quote_ident(created_column), unknown_kinds = 'skip'
            FROM reactions.entity_type WHERE type_id = \(typeID) AND legacy_table IS NOT NULL
            """)
        guard !result.rows.isEmpty else { return nil }
        let map = try session.query(
            """
            SELECT m.key, m.value FROM reactions.entity_type t, jsonb_each_text(t.kind_map) m WHERE t.type_id = \(typeID)
            """)
        var kindMap: [String: String?] = [:]
        for row in map.rows { kindMap.updateValue(map.text(row, 1), forKey: try map.required(row, 0)) }
        return LegacyTable(
            name: try result.required(0, 0), userColumn: try result.required(0, 1),
            entityColumn: try result.required(0, 2), kindColumn: try result.required(0, 3),
            createdColumn: result.text(0, 4), kindMap: kindMap, skipsUnknownKinds: result.isTrue(0, 5))
    }
}
