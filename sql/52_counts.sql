-- An entity's side. -------------------------------------------------------------------------------------------------------------

CREATE FUNCTION counts(
    entity_ids bigint[], entity_type text DEFAULT 'Image', OUT entity_id bigint, OUT kind text, OUT count bigint
) RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100 ROWS 400 AS 'MODULE_PATHNAME', 'reactions_counts';
COMMENT ON FUNCTION counts(bigint[], text) IS
    'how often each kind is set on each of up to 100000 distinct entities, as of the mirror; one row for each entity and kind, zeros included';

CREATE FUNCTION total(entity_id bigint, entity_type text DEFAULT 'Image') RETURNS bigint
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 50 AS 'MODULE_PATHNAME', 'reactions_total';
COMMENT ON FUNCTION total(bigint, text) IS 'sum of the counts of all kinds of an entity, as of the mirror';

CREATE FUNCTION is_viral(entity_id bigint, entity_type text DEFAULT 'Image') RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 50 AS 'MODULE_PATHNAME', 'reactions_is_viral';
COMMENT ON FUNCTION is_viral(bigint, text) IS
    'whether Redis keeps counts and a sample of an entity instead of everybody; of one that it does not keep, whether its total reaches viral_threshold';

CREATE FUNCTION unique_reactors(entity_id bigint, entity_type text DEFAULT 'Image') RETURNS bigint
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 50 AS 'MODULE_PATHNAME', 'reactions_unique_reactors';
COMMENT ON FUNCTION unique_reactors(bigint, text) IS 'number of users who have reacted to an entity with any kind, exact, as of the mirror';

CREATE FUNCTION ever_reacted(entity_id bigint, entity_type text DEFAULT 'Image', OUT estimated_users bigint) RETURNS bigint
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 1000 AS 'MODULE_PATHNAME', 'reactions_ever_reacted';
COMMENT ON FUNCTION ever_reacted(bigint, text) IS
    'an estimate, by ClickHouse''s HyperLogLog, of how many users have ever reacted to an entity, those who took it back included';

CREATE FUNCTION reactors(
    entity_id bigint, kind text DEFAULT NULL, page_size integer DEFAULT 50, cursor text DEFAULT NULL,
    entity_type text DEFAULT 'Image', OUT user_id bigint, OUT flags integer, OUT reacted_at timestamptz, OUT next_cursor text
) RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED COST 200 ROWS 50 AS 'MODULE_PATHNAME', 'reactions_reactors';
COMMENT ON FUNCTION reactors(bigint, text, integer, text, text) IS
    'a page of the users who have reacted to an entity, newest first, as of the mirror; cursor is next_cursor of the last row of the page before';

CREATE FUNCTION entity_status(
    entity_id bigint, entity_type text DEFAULT 'Image', OUT tier text, OUT tier_since timestamptz, OUT tier_reason text,
    OUT counted_batch bigint, OUT built_at timestamptz
) RETURNS record
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 50 AS 'MODULE_PATHNAME', 'reactions_entity_status';
COMMENT ON FUNCTION entity_status(bigint, text) IS
    'what Redis keeps of an entity: its tier, since when and why, the last batch with a change of it, and when it was built; null if nothing';
