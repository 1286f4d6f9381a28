/// A way to write a reaction.
enum Way: String, CaseIterable {
    case plain, attached, react, reactAttached, trigger, notify

    /// As it is called in tables.
    var name: String {
        switch self {
        case .reactAttached: "react_attached"
        default: rawValue
        }
    }

    var what: String {
        switch self {
        case .plain: "INSERT into Prisma's table with its four indexes"
        case .attached: "the same into an attached table"
        case .react: "reactions.react of a type without a table"
        case .reactAttached: "reactions.react of the attached table's type"
        case .trigger: "the same INSERT, a PL/pgSQL row trigger that writes an outbox, which nobody reads"
        case .notify: "the same INSERT, a PL/pgSQL row trigger with pg_notify, to which nobody listens"
        }
    }

    /// The table that gets a row per transaction.
    var table: String? {
        switch self {
        case .plain: "PlainReaction"
        case .attached, .reactAttached: "ImageReaction"
        case .react: nil
        case .trigger: "TriggerReaction"
        case .notify: "NotifyReaction"
        }
    }

    func script(_ site: WriteSite) -> String {
        switch self {
        case .react: site.react("Post")
        case .reactAttached: site.react("Image")
        case .plain, .attached, .trigger, .notify: site.insert(into: table ?? "")
        }
    }
}
