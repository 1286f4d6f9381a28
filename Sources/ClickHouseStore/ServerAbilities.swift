/// What a ClickHouse server can do, asked once per connection instead of assumed from its version.
public struct ServerAbilities: Equatable, Sendable {
    /// Names of the settings below that the server knows: `system.settings` as they are, `system.merge_tree_settings` and
    /// `system.data_type_families` with a prefix.
    private var known: Set<String>

    private static let settings = [
        "allow_experimental_low_cardinality_type", "allow_suspicious_codecs", "allow_suspicious_low_cardinality_types",
        "async_insert", "deduplicate_insert", "deduplicate_insert_select", "insert_deduplicate",
        "insert_deduplication_token", "insert_quorum_parallel", "mutations_sync",
        "optimize_aggregation_in_order", "optimize_on_insert",
    ]
    private static let mergeTreeSettings = [
        "fsync_after_insert", "fsync_part_directory", "non_replicated_deduplication_window",
    ]
    private static let types = ["DateTime64", "LowCardinality"]

    /// One column, one row for each name that is known.
    public static let query = """
        SELECT name FROM system.settings WHERE name IN (\(SQL.list(settings)))
        UNION ALL SELECT concat('table ', name) FROM system.merge_tree_settings \
        WHERE name IN (\(SQL.list(mergeTreeSettings)))
        UNION ALL SELECT concat('type ', name) FROM system.data_type_families WHERE name IN (\(SQL.list(types)))
        """

    public init(rows: [[String]]) {
        known = Set(rows.compactMap(\.first))
    }

    /// Everything that the newest servers offer: the form that is printed when no server is asked.
    public static let newest = ServerAbilities(
        rows: (settings.filter { $0 != "allow_experimental_low_cardinality_type" }
            + mergeTreeSettings.map { "table " + $0 }
            + types.map { "type " + $0 }).map { [$0] })

    public func knows(setting: String) -> Bool { known.contains(setting) }
    public func knows(tableSetting: String) -> Bool { known.contains("table " + tableSetting) }

    /// A resent block with the same token is dropped by the server.
    public var hasDeduplicationToken: Bool {
        knows(setting: "insert_deduplication_token") && knows(tableSetting: "non_replicated_deduplication_window")
    }
    public var hasDateTime64: Bool { known.contains("type DateTime64") }
    public var hasLowCardinality: Bool { known.contains("type LowCardinality") }
    /// Column codecs came years before this setting about them; every server that has it has Delta and ZSTD.
    public var hasCodecs: Bool { knows(setting: "allow_suspicious_codecs") }

    /// What may be used ON CLUSTER: LowCardinality, where it is experimental, needs a setting that other servers do not get.
    var onCluster: ServerAbilities {
        var abilities = self
        if !knows(setting: "allow_suspicious_low_cardinality_types") { abilities.known.remove("type LowCardinality") }
        return abilities
    }

    /// For a table that keeps no rows.
    var withoutStorage: ServerAbilities {
        var abilities = self
        abilities.known.remove("allow_suspicious_codecs")
        return abilities
    }
}
