public import ReactionModel

/// A page of a packed list, read in place.
public struct ReactionListPage: Equatable, Sendable {
    /// Why there are no more reactors in the page.
    public enum End: Equatable, Sendable {
        /// It is full.
        case full
        /// The list is, and nobody else has reacted.
        case everybody
        /// The list is, and the truth knows who comes after.
        case floor
        /// Only the beginning of the list was there.
        case cut
    }

    public var reactors: [Reactor]
    public var end: End

    /// Nil if the bytes are no list, or one of another life of the entity: it is absent then.
    ///
    /// - Parameters:
    ///   - isWhole: whether the bytes are the whole list, and not only its beginning.
    ///   - bound: whom the page starts after; nil: with the newest.
    ///   - mask: of the kinds, one of which a reactor has to have.
    public init?(
        _ bytes: ArraySlice<UInt8>, isWhole: Bool, nonce: [UInt8], below bound: ReactionPosition?, mask: Int32,
        limit: Int
    ) {
        let page: ReactionListPage?? = bytes.withUnsafeBytes { bytes in
            guard let list = PackedList(bytes, nonce: nonce), !isWhole || list.isWhole else { return nil }
            return Self(list, isWhole: isWhole, below: bound, mask: mask, limit: limit)
        }
        guard let page = page ?? nil else { return nil }
        self = page
    }

    private init(_ list: PackedList, isWhole: Bool, below bound: ReactionPosition?, mask: Int32, limit: Int) {
        reactors = []
        var index = bound.map(list.firstIndex) ?? 0
        while index < list.count, reactors.count < limit {
            let flags = list.flags(index)
            if flags & mask != 0 { reactors.append(Reactor(position: list.position(index), flags: flags)) }
            index &+= 1
        }
        end =
            if reactors.count >= limit { .full } else if !isWhole { .cut } else if list.hasFloor { .floor } else {
                .everybody
            }
    }
}
