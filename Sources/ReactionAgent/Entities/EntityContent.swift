internal import Pipeline
internal import ReactionModel
internal import RedisStore

/// What there is of an entity, between its state and the keys of Redis that hold it. No I/O.
struct EntityContent {
    var state: EntityState
    /// Field `_tier`.
    var tierSince: [UInt8]

    /// The fields of the counts, in the order in which `init(_:_:_:_:_:)` takes their values.
    static func fields(of type: EntityType) -> [String] {
        type.kinds.map(\.name) + ["\(EntityField.users)", "\(EntityField.tier)"]
    }

    init(state: EntityState, tierSince: [UInt8]) {
        self.state = state
        self.tierSince = tierSince
    }

    /// Nil if the keys are not whole, or those of another entity than was found.
    ///
    /// - Parameters:
    ///   - counts: the marker and the `fields`.
    ///   - list: of the marker's tier.
    init?(_ counts: RedisReply, _ list: RedisReply, _ text: [UInt8], _ marker: EntityMarker, _ type: EntityType) {
        guard case .array(let values) = counts, values.count == type.kinds.count + 3, values[0].bytes == text,
            let packed = list.bytes, let list = ReactionList(packed[...], nonce: marker.nonce),
            marker.tier == .viral || list.floor == nil
        else { return nil }
        var numbers = [Int64].counts(of: type.allFlags)
        for (kind, value) in zip(type.kinds, values.dropFirst()) {
            // A kind that is newer than the entity has no field, and nobody has reacted with it.
            guard let number = value == .null ? 0 : value.number else { return nil }
            numbers[kind.flag.trailingZeroBitCount] = number
        }
        state = EntityState(
            tier: marker.tier, counts: numbers, users: values[values.count - 2].number, reactors: list.reactors,
            floor: list.floor)
        tierSince = values[values.count - 1].bytes ?? []
    }

    func written(as marker: EntityMarker, _ stamp: Stamp, of type: EntityType) -> EntityWrite.Content {
        var fields: [[UInt8]] = []
        fields.reserveCapacity(2 * (type.kinds.count + 4))
        func add(_ name: String, _ value: [UInt8]) {
            fields.append(Array(name.utf8))
            fields.append(value)
        }
        func add(_ name: String, _ number: Int64) {
            var digits: [UInt8] = []
            digits.appendDecimal(number)
            add(name, digits)
        }
        add("\(EntityMarker.field)", marker.text(stamp: stamp))
        var total: Int64 = 0
        for kind in type.kinds where state.counts.indices.contains(kind.flag.trailingZeroBitCount) {
            let count = state.counts[kind.flag.trailingZeroBitCount]
            add(kind.name, count)
            total += count
        }
        add("\(EntityField.total)", total)
        if let users = state.users { add("\(EntityField.users)", users) }
        add("\(EntityField.tier)", tierSince)
        return EntityWrite.Content(
            tier: state.tier, total: total,
            list: ReactionList(nonce: marker.nonce, floor: state.floor, reactors: state.reactors).packed(
                allFlags: type.allFlags),
            fields: fields)
    }
}

extension RedisReply {
    /// Of a text in decimal digits.
    fileprivate var number: Int64? {
        if case .text(let text) = self { Int64(text) } else { nil }
    }
}
