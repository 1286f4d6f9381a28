/// What proves that a user map was made in this life of Redis and of PostgreSQL: a map with another stamp is absent.
///
/// 64-bit FNV-1a over the history of the Redis that keeps the map (`RedisIdentity`), PostgreSQL's system identifier and timeline, and
/// the type's epoch. A restart of Redis, an old RDB file, a failover of either server, a slot that moved, a restored dump and a raised
/// epoch each change it.
public struct Stamp: Hashable, Sendable {
    /// 16 lower-case hexadecimal digits.
    public let digits: [UInt8]

    public init(redisHistory: [UInt8], systemIdentifier: UInt64, timeline: UInt32, epoch: Int64) {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        func mix(_ byte: UInt8) {
            hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
        }
        func mix(_ number: UInt64) {
            for shift in stride(from: 0, to: 64, by: 8) { mix(UInt8(truncatingIfNeeded: number >> UInt64(shift))) }
        }
        redisHistory.forEach(mix)
        mix(systemIdentifier)
        mix(UInt64(timeline))
        mix(UInt64(bitPattern: epoch))
        let hexadecimal = Array("0123456789abcdef".utf8)
        self.digits = stride(from: 60, through: 0, by: -4).map { hexadecimal[Int(hash >> UInt64($0) & 15)] }
    }
}
