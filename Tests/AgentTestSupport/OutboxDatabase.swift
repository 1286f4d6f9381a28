import Foundation
public import PostgresSource
public import TestSupport

/// A database with the extension's tables and, in the place of its C functions, SQL that does the same for the agent.
public struct OutboxDatabase: Sendable {
    public let server: PostgresServer
    public let name: String

    public static func make(on server: PostgresServer? = nil) async throws -> OutboxDatabase {
        let server = if let server { server } else { try await PostgresServer.shared.value }
        let database = OutboxDatabase(server: server, name: try server.createDatabase())
        let tables = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../sql/10_tables.sql")
        let connection = try database.connect()
        try connection.execute("CREATE SCHEMA reactions; SET search_path = reactions")
        try connection.execute(String(contentsOf: tables, encoding: .utf8))
        try connection.execute(standIns)
        return database
    }

    public var conninfo: String { server.conninfo(database: name) }

    public func connect() throws -> PostgresConnection {
        try server.connect(database: name)
    }

    public func source(_ limits: PostgresSource.BatchLimits = .init()) -> PostgresSource {
        PostgresSource(settings: PostgresSettings(conninfo: conninfo), limits: limits)
    }

    /// A source that leads, and its term. A predecessor's lock may outlive the client that has closed its session.
    public func leader(
        _ limits: PostgresSource.BatchLimits = .init()
    ) async throws -> (source: PostgresSource, term: PostgresSource.Term) {
        let source = source(limits)
        try await source.open()
        try await eventually("no other agent leads") { try await source.becomeLeader() }
        return (source, try await source.beginTerm())
    }

    private static let standIns = """
        CREATE FUNCTION _cluster(OUT system_identifier bigint, OUT timeline bigint) LANGUAGE sql AS $$
            SELECT s.system_identifier, c.timeline_id::bigint FROM pg_control_system() s, pg_control_checkpoint() c
        $$;
        CREATE FUNCTION _current_generation() RETURNS bigint LANGUAGE plpgsql AS $$
        DECLARE
            here record;
            newest reactions._generation;
        BEGIN
            SELECT * INTO here FROM reactions._cluster();
            SELECT * INTO newest FROM reactions._generation ORDER BY generation DESC LIMIT 1;
            IF (newest.system_identifier, newest.timeline) IS DISTINCT FROM (here.system_identifier, here.timeline) THEN
                INSERT INTO reactions._generation
                VALUES (coalesce(newest.generation, 0) + 1, here.system_identifier, here.timeline)
                RETURNING * INTO newest;
            END IF;
            RETURN newest.generation;
        END
        $$;
        CREATE FUNCTION _set_asleep(asleep boolean) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN
            IF asleep THEN PERFORM pg_advisory_lock(1380013139, 2);
            ELSE PERFORM pg_advisory_unlock(1380013139, 2);
            END IF;
        END
        $$;
        CREATE FUNCTION _raise_epoch(of_type smallint) RETURNS bigint LANGUAGE sql AS $$
            UPDATE reactions.entity_type SET epoch = epoch + 1 WHERE type_id = of_type RETURNING epoch
        $$;
        -- What the view of this name shows.
        CREATE TABLE stats (name text, kind text, value numeric, shared boolean);
        -- What the view of this name shows of rollbacks.
        CREATE TABLE write_backs (
            entity_type text, keys_done bigint DEFAULT 0, keys_total bigint, error text, finished_at timestamptz, waits_for text);
        -- What react() and capture come to: an event in the current outbox table.
        CREATE FUNCTION write_event(
            user_id bigint, entity_id bigint, set_mask integer, clear_mask integer DEFAULT 0, type_id smallint DEFAULT 1,
            delta_known boolean DEFAULT true, scope "char" DEFAULT 'r'
        ) RETURNS bigint LANGUAGE plpgsql AS $$
        DECLARE
            current_outbox smallint;
            xid xid8 := pg_current_xact_id();
            version bigint := reactions._current_generation() << 44 | nextval('reactions._version');
        BEGIN
            SELECT coalesce((SELECT m.current_outbox FROM reactions._mirror m), 0) INTO current_outbox;
            EXECUTE format('INSERT INTO reactions._outbox_%s VALUES ($1,$2,$3,$4,now(),clock_timestamp(),$5,$6,$7,$8,$9)',
                current_outbox) USING version, xid, user_id, entity_id, set_mask, clear_mask, type_id, scope, delta_known;
            RETURN version;
        END
        $$;
        CREATE FUNCTION add_type(type_id smallint, name text) RETURNS void LANGUAGE sql AS $$
            INSERT INTO reactions.entity_type (type_id, entity_type, mode, phase, user_map_key, entity_key,
                user_map_shape, entity_shape)
            VALUES (type_id, name, 'multi', 'native', lower(name) || ':<user>', lower(name) || ':<entity>', name, name);
            INSERT INTO reactions.kind VALUES (type_id, 'Like', 1), (type_id, 'Heart', 2);
        $$;
        SELECT add_type(1::smallint, 'Image'), add_type(2::smallint, 'Post');
        SELECT _current_generation();
        """
}

extension PostgresConnection {
    /// Writes one event, in the open transaction if there is one, and returns its version.
    @discardableResult
    public func writeEvent(
        user: Int64, entity: Int64, set: Int32, clear: Int32 = 0, type: Int16 = 1, deltaKnown: Bool = true,
        scope: String = "r"
    ) throws -> Int64 {
        let version = try value(
            "SELECT reactions.write_event($1::bigint, $2::bigint, $3::integer, $4::integer, $5::smallint, $6::boolean, $7::\"char\")",
            ["\(user)", "\(entity)", "\(set)", "\(clear)", "\(type)", "\(deltaKnown)", scope])
        return Int64(version ?? "") ?? -1
    }
}
