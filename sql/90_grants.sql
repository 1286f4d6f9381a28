-- Privileges. -------------------------------------------------------------------------------------------------------------------

REVOKE ALL ON ALL ROUTINES IN SCHEMA reactions FROM PUBLIC;

GRANT USAGE ON SCHEMA reactions TO reactions_reader, reactions_writer, reactions_admin;
GRANT EXECUTE ON FUNCTION
    flags(bigint, bigint, text), flags_many(bigint, bigint[], text), by_user(bigint, text, integer, bigint, text),
    kinds(integer, text), has(integer, text, text), status(),
    counts(bigint[], text), total(bigint, text), is_viral(bigint, text), unique_reactors(bigint, text),
    ever_reacted(bigint, text), reactors(bigint, text, integer, text, text), entity_status(bigint, text)
    TO reactions_reader, reactions_writer, reactions_admin;
GRANT SELECT ON entity_type, kind TO reactions_reader, reactions_writer, reactions_admin;
GRANT EXECUTE ON FUNCTION
    react(bigint, bigint, text, text), unreact(bigint, bigint, text, text), set_flags(bigint, bigint, integer, text),
    toggle(bigint, bigint, text, text)
    TO reactions_writer, reactions_admin;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA reactions TO reactions_admin;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA reactions TO reactions_admin;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA reactions TO reactions_admin;
GRANT USAGE ON SCHEMA reactions TO pg_monitor;
GRANT SELECT ON stats, mirror_status, parked_events, backfill, _backfill, _backfill_range, _mirror, _batch, _outbox, _skipped, entity_type, kind, phase_log, match_run, difference, differences, match_status, _capture_seen,
    reconcile_run, reconcile_class, reconcile_shard, reconcile_finding, reconcile_status, redis_shards, compared_reads, mismatch, mismatches, write_back, write_backs, write_back_refused TO pg_monitor;
GRANT EXECUTE ON FUNCTION _stats(), _agent_pid(), status(), readiness(text), _refuse(text, text, text), _phase_beside(text, integer),
    _table_problems(regclass, text, name, name, name, name, jsonb), _advice(smallint), _references(smallint),
    _statements_on(regclass, text) TO pg_monitor;

-- What pg_dump takes along: configuration and what is not yet elsewhere; not the mirror's progress, which belongs to one cluster.
SELECT pg_catalog.pg_extension_config_dump('entity_type', '');
SELECT pg_catalog.pg_extension_config_dump('kind', '');
SELECT pg_catalog.pg_extension_config_dump('_referenced', '');
SELECT pg_catalog.pg_extension_config_dump('phase_log', '');
SELECT pg_catalog.pg_extension_config_dump('phase_log_phase_log_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('match_run', '');
SELECT pg_catalog.pg_extension_config_dump('match_run_match_run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('write_back_refused', '');
SELECT pg_catalog.pg_extension_config_dump('_generation', '');
SELECT pg_catalog.pg_extension_config_dump('_outbox_0', '');
SELECT pg_catalog.pg_extension_config_dump('_outbox_1', '');
SELECT pg_catalog.pg_extension_config_dump('_outbox_2', '');
SELECT pg_catalog.pg_extension_config_dump('parked_event', '');
SELECT pg_catalog.pg_extension_config_dump('_skipped', '');
SELECT pg_catalog.pg_extension_config_dump('forgotten_user', '');
