/// A type of entities whose reactions are rows of a captured table of Prisma's shape.
struct CountedType: Sendable {
    let name: String
    let isExclusive: Bool

    static let post = CountedType(name: "Post", isExclusive: true)
    static let image = CountedType(name: "Image", isExclusive: false)

    var table: String { "\"\(name)Reaction\"" }
    var entityColumn: String { "\"\(name.lowercased())Id\"" }
    /// What the keys of its entities begin with, by the default template.
    var keyPrefix: String { "\(name.lowercased()):" }

    /// In `switch_reads`: rows are captured, reads come from Redis.
    var definition: String {
        """
        CREATE TABLE \(table) (
            "userId" integer NOT NULL, \(entityColumn) integer NOT NULL, reaction text NOT NULL,
            "createdAt" timestamp(3) NOT NULL DEFAULT current_timestamp,
            PRIMARY KEY ("userId", \(entityColumn)\(isExclusive ? "" : ", reaction")));
        SELECT reactions.attach('\(table)', '\(name)', 'userId', \(entityColumn.replacing("\"", with: "'")), 'reaction', 'createdAt',
            mode => '\(isExclusive ? "exclusive" : "multi")', phase => 'switch_reads')
        """
    }

    /// One row for each pair of `entity` and number `n` of the source. Of an exclusive type each is another user's; else every fifth
    /// number is a second kind of the user before.
    ///
    /// - Parameter user: of a number, in SQL; must not map two numbers to one user.
    func insert(from source: String, user: (String) -> String = { $0 }) -> String {
        """
        INSERT INTO \(table) ("userId", \(entityColumn), reaction)
        SELECT \(user(isExclusive ? "n" : "(1 + n * 4 / 5)")), entity, (ARRAY['Like', 'Heart', 'Laugh', 'Cry'])[1 + n % 4] FROM \(source)
        """
    }
}
