-- Comments of tables, sequences and views. --------------------------------------------------------------------------------------

COMMENT ON SCHEMA reactions IS 'pg_reactions; names that begin with an underscore are private';
COMMENT ON TABLE entity_type IS 'entity types: what can be reacted to, where their reactions are kept, and the phase of their migration';
COMMENT ON TABLE kind IS 'kinds of reaction of each entity type, and their flags';
COMMENT ON TABLE _referenced IS 'tables of users (u) and entities (e) that the foreign keys of frozen tables reference, kept for when such a table is dropped';
COMMENT ON TABLE phase_log IS 'every change of a phase: who, when, from, to';
COMMENT ON SEQUENCE phase_log_phase_log_id_seq IS 'numbers of phase_log';
COMMENT ON TABLE _generation IS 'generations of versions: one per installation and timeline that has written events';
COMMENT ON SEQUENCE _version IS 'the lower 44 bits of an event''s version';
COMMENT ON TABLE _outbox_0 IS 'outbox: events on their way to Redis and ClickHouse';
COMMENT ON TABLE _outbox_1 IS 'outbox: events on their way to Redis and ClickHouse';
COMMENT ON TABLE _outbox_2 IS 'outbox: events on their way to Redis and ClickHouse';
COMMENT ON VIEW _outbox IS 'the three outbox tables as one';
COMMENT ON TABLE parked_event IS 'events that ClickHouse has refused';
COMMENT ON TABLE _skipped IS 'captured rows whose kind is not a reaction, counted per statement';
COMMENT ON TABLE _mirror IS 'the agent''s progress: one row';
COMMENT ON TABLE _batch IS 'recent batches of events that the agent has formed';
COMMENT ON SEQUENCE _backfill_number IS 'numbers of the readings of attached tables';
COMMENT ON TABLE _backfill IS 'every backfill of an attached table, the current one of a type with the highest version';
COMMENT ON TABLE _backfill_range IS 'ranges of blocks that a backfill has sent to ClickHouse';
