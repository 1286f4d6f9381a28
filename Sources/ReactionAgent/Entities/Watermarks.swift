internal import Pipeline
internal import ReactionModel
internal import RedisStore

/// The entities of a type that have one watermark, and one slot of a cluster.
struct ShardID: Hashable {
    var typeID: Int16
    var shard: Int32
}

/// What the watermarks of shards may be by the calls of one term. No I/O.
///
/// The watermark of a shard names the last call of the script that wrote there. A call goes through only if the watermark is that of
/// the call before, so none is lost, comes late or is taken back (by a server that is given older contents while it runs) unnoticed.
/// What a failed call has left is one of two. A term claims a shard before it first looks at an entity there: from then on nothing of a
/// former leader's arrives, and what has arrived is seen.
struct Watermarks {
    /// What a claim writes.
    let claim = makeNonce()
    /// None before the term has claimed the shard.
    private var possible: [ShardID: [[UInt8]]] = [:]
    /// The shard of each type that was written last: it shows whether anything was taken back.
    private var newest: [Int16: ShardID] = [:]
    private var calls: Int64 = 0

    /// What no watermark is.
    private static let never = Array("?".utf8)

    /// Shards to be claimed, and shards of which it has to be asked what failed calls have left.
    func open(_ shards: Set<ShardID>) -> (unclaimed: [ShardID], unsure: [ShardID]) {
        (shards.filter { possible[$0] == nil }, shards.filter { possible[$0]?.count ?? 0 > 1 })
    }

    /// Not any more, once its type has a new epoch.
    func isClaimed(_ shard: ShardID) -> Bool { possible[shard] != nil }

    /// Whether the shard is claimed and its watermark known for certain.
    func isSettled(_ shard: ShardID) -> Bool { possible[shard]?.count == 1 }

    /// Those that were written last and are known for certain.
    var telling: [ShardID] { newest.values.filter { possible[$0]?.count == 1 } }

    /// Unless it was meanwhile, and has been written since.
    mutating func claimed(_ shard: ShardID) {
        guard possible[shard] == nil else { return }
        possible[shard] = [claim]
        newest[shard.typeID] = shard
    }

    /// A call that counts a batch: what the watermark is before and after it.
    mutating func begin(_ shard: ShardID, _ batch: BatchNumber) -> (predecessor: [UInt8], successor: [UInt8]) {
        calls += 1
        var successor = claim
        for number in [batch.rawValue, calls] {
            successor.append(UInt8(ascii: ":"))
            successor.appendDecimal(number)
        }
        let predecessor = possible[shard]?.last ?? []
        possible[shard, default: []].append(successor)
        newest[shard.typeID] = shard
        return (predecessor, successor)
    }

    /// The call went through: the watermark is its successor, or that of a later one.
    mutating func succeeded(_ shard: ShardID, _ successor: [UInt8]) {
        possible[shard] = possible[shard].map { Array($0.drop { $0 != successor }) }
    }

    /// Of what may be, this is what there is; an error if it is something else.
    mutating func settle(_ shard: ShardID, _ found: [UInt8], of type: EntityType?) throws(CacheError) {
        guard possible[shard, default: []].contains(found) else { throw displaced(shard, of: type) }
        possible[shard] = [found]
    }

    /// Nothing is written to the shard any more until the type has a new epoch.
    mutating func displaced(_ shard: ShardID, of type: EntityType?) -> CacheError {
        possible[shard] = [Self.never]
        newest[shard.typeID] = shard
        return CacheError(
            message: "entities of type \(type?.name ?? "") are not as they were left", displacedTypes: [shard.typeID])
    }

    /// Nothing of the types' older epochs counts any more, whatever became of it.
    mutating func forget(_ types: Set<Int16>) {
        possible = possible.filter { !types.contains($0.key.typeID) }
        newest = newest.filter { !types.contains($0.key) }
    }
}
