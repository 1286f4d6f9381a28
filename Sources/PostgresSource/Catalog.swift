internal import Pipeline
internal import ReactionModel

extension PostgresSource {
    /// The entity types with their kinds: small tables, read with every batch so that a raised epoch or a new kind is seen.
    func catalog(_ session: PostgresConnection) throws(PostgresError) -> [Int16: EntityType] {
        let result = try session.query(
            """
            SELECT t.type_id, t.entity_type, t.mode, t.phase, t.user_map_key, t.entity_key, t.shard_count, t.epoch,
                   (SELECT string_agg(k.kind || ' ' || k.flag, ',' ORDER BY k.flag)
                    FROM reactions.kind k WHERE k.type_id = t.type_id)
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
            let typeID = try result.required(row, 0, as: Int16.self)
            catalog[typeID] = EntityType(
                typeID: typeID, name: name, mode: mode, phase: phase, kinds: kinds, userMapKey: userMapKey,
                entityKey: entityKey, shardCount: try result.required(row, 6), epoch: try result.required(row, 7))
        }
        return catalog
    }
}
