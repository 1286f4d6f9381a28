public import ReactionModel

/// Makes the rows of a range of an attached table: one in `entityMetricEvents` for each. The other tables follow from these when the
/// backfill is sealed.
public struct BackfillEncoder {
    private let type: EntityType
    private let layout: MirrorLayout

    public init(type: EntityType, layout: MirrorLayout) {
        self.type = type
        self.layout = layout
    }

    public func encode(_ rows: [BackfillRow], version: Version, batch: BatchNumber) -> [UInt8] {
        let entityType = RowBinary.string(type.name)
        let metricTypes = type.kinds.map { RowBinary.string($0.metricType) }
        let widest = metricTypes.map(\.count).max() ?? 0
        // Ids, version and batch; part and value; the widest time.
        let width = entityType.count + widest + 8 * 4 + 4 + 1 + 8
        return RowBinary.bytes(capacity: rows.count * width) { bytes in
            for row in rows where metricTypes.indices.contains(Int(row.kind)) {
                bytes.append(encoded: entityType)
                bytes.append(row.entityID)
                bytes.append(row.userID)
                bytes.append(encoded: metricTypes[Int(row.kind)])
                bytes.append(Int8(1))
                bytes.append(microseconds: row.createdAt, as: layout.events)
                bytes.append(version.rawValue)
                bytes.append(batch.rawValue)
                bytes.append(Int32(0))
            }
        }
    }
}
