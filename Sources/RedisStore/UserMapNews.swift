public import ReactionModel

/// Whether an apply could change a map, judged by the two fields that it would read.
///
/// Most events that the agent applies are in the map already, put there at commit, or are of a user without a map; a script that
/// finds that out costs Redis several times what reading the fields does. What this calls no news the script would have found to be
/// none at the moment of the read, so the read stands for the apply.
public enum UserMapNews {
    /// - Parameters:
    ///   - kinds: of both masks of the event.
    ///   - marker: the map's field `_`.
    ///   - field: the entity's field.
    /// - Returns: false if an apply under `stamp` changes nothing; true in doubt.
    public static func isNews(
        version: Int64, kinds: Int32, marker: ByteCursor?, field: ByteCursor?, stamp: Stamp
    ) -> Bool {
        let colon = UInt8(ascii: ":")
        guard var marker else { return false }
        // A map of another stamp has to go.
        guard marker.take(upTo: colon).elementsEqual(stamp.digits) else { return true }
        _ = marker.take(upTo: colon)
        guard let floor = marker.decimal() else { return true }
        guard version > floor else { return false }
        guard var field else { return true }
        _ = field.take(upTo: colon)
        var rest = kinds
        while !field.isAtEnd {
            guard let mask = field.decimal(), field.skip(colon), let changed = field.decimal(),
                field.skip(colon) || field.isAtEnd
            else { return true }
            if changed >= version { rest &= ~Int32(truncatingIfNeeded: mask) }
        }
        return rest != 0
    }
}
