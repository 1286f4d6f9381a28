internal import Pipeline
internal import ReactionModel

/// Decodes the rows of an attached table: user, entity, kind, and the time if there is a column for it.
struct LegacyRowDecoder {
    private struct Label {
        var bytes: [UInt8]
        /// Position among the type's kinds; nil: such rows are skipped.
        var kind: Int32?
    }

    private let fieldCount: Int16
    private let kindColumn: String
    private let skipsUnknownKinds: Bool
    private let labels: [Label]
    private var header = BinaryCopyHeader()
    /// Rows that are no reactions.
    private(set) var skipped: Int64 = 0

    init(_ table: LegacyTable, _ type: EntityType) {
        fieldCount = table.createdColumn == nil ? 3 : 4
        kindColumn = table.kindColumn
        skipsUnknownKinds = table.skipsUnknownKinds
        let names = table.kindMap.keys.sorted() + type.kinds.map(\.name).filter { !table.kindMap.keys.contains($0) }
        labels = names.compactMap { name in
            // A kind that the map leads to and the type does not have is unknown.
            guard let kind = table.kindMap[name] ?? name else { return Label(bytes: Array(name.utf8), kind: nil) }
            guard let position = type.kinds.firstIndex(where: { $0.name == kind }) else { return nil }
            return Label(bytes: Array(name.utf8), kind: Int32(position))
        }
    }

    /// - Parameter alias: of the table in the query.
    static func columns(of table: LegacyTable, alias: String? = nil) -> String {
        // An enum's binary form is its label, as a text's is its bytes.
        [table.userColumn, table.entityColumn, table.kindColumn, table.createdColumn].compactMap { $0 }
            .map { column in alias.map { $0 + "." + column } ?? column }
            .joined(separator: ", ")
    }

    /// One row as libpq hands it over. Nil if it is no reaction, or no row.
    mutating func decode(_ bytes: UnsafeRawBufferPointer) throws(PostgresError) -> BackfillRow? {
        var row = BinaryCopyRow(bytes: bytes)
        guard try header.precedesRow(in: &row) else { return nil }
        let count = try row.integer(Int16.self)
        if count == -1 { return nil }
        guard count == fieldCount else { throw BinaryCopyRow.nonsense }
        let user = try row.anyInteger()
        let entity = try row.anyInteger()
        let label = try row.text()
        let time = fieldCount == 4 ? try row.anyInteger() : nil
        guard row.isAtEnd else { throw BinaryCopyRow.nonsense }
        // As in capture: if NOT NULL was dropped since, such a row is no reaction.
        guard let user, let entity, let label, let kind = try kind(label) else {
            skipped += 1
            return nil
        }
        let isFinite = time != nil && time != .min && time != .max
        return BackfillRow(
            userID: user, entityID: entity, createdAt: isFinite ? PostgresTime.unixTime(time ?? 0) : 0, kind: kind)
    }

    private func kind(_ label: UnsafeRawBufferPointer) throws(PostgresError) -> Int32? {
        for known in labels where known.bytes.count == label.count {
            if known.bytes.withUnsafeBytes({ $0.elementsEqual(label) }) { return known.kind }
        }
        guard skipsUnknownKinds else {
            throw PostgresError(
                disposition: .stop,
                message: "column \(kindColumn) has the kind \"\(String(decoding: label, as: UTF8.self))\", "
                    + "which the entity type has not: add it with reactions.add_kind")
        }
        return nil
    }
}
