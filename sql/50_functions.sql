-- Changing. ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION react(user_id bigint, entity_id bigint, kind text, entity_type text DEFAULT 'Image') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'reactions_react';
COMMENT ON FUNCTION react(bigint, bigint, text, text) IS
    'sets a kind of reaction; in an exclusive type it replaces any other; nothing happens if it is set';

CREATE FUNCTION unreact(user_id bigint, entity_id bigint, kind text, entity_type text DEFAULT 'Image') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'reactions_unreact';
COMMENT ON FUNCTION unreact(bigint, bigint, text, text) IS 'clears a kind of reaction; nothing happens if it is not set';

CREATE FUNCTION set_flags(user_id bigint, entity_id bigint, flags integer, entity_type text DEFAULT 'Image') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'reactions_set_flags';
COMMENT ON FUNCTION set_flags(bigint, bigint, integer, text) IS 'sets exactly the kinds of the flags and clears all others';

CREATE FUNCTION toggle(user_id bigint, entity_id bigint, kind text, entity_type text DEFAULT 'Image') RETURNS integer
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 200 AS 'MODULE_PATHNAME', 'reactions_toggle';
COMMENT ON FUNCTION toggle(bigint, bigint, text, text) IS
    'turns a kind of reaction over and returns the flags afterwards; fails if the state before cannot be known';

-- Reading. ----------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION flags(user_id bigint, entity_id bigint, entity_type text DEFAULT 'Image') RETURNS integer
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 50 AS 'MODULE_PATHNAME', 'reactions_flags';
COMMENT ON FUNCTION flags(bigint, bigint, text) IS
    'a user''s kinds on an entity as a bit mask; 0 is none; null only for null arguments or an unknown with reactions.on_unavailable = null';

CREATE FUNCTION flags_many(
    user_id bigint, entity_ids bigint[], entity_type text DEFAULT 'Image', OUT entity_id bigint, OUT flags integer
) RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 100 ROWS 100 AS 'MODULE_PATHNAME', 'reactions_flags_many';
COMMENT ON FUNCTION flags_many(bigint, bigint[], text) IS
    'a user''s flags on each of up to 100000 distinct entities, in the order of their first occurrence';

CREATE FUNCTION by_user(
    user_id bigint, kind text DEFAULT NULL, page_size integer DEFAULT 100, after bigint DEFAULT NULL,
    entity_type text DEFAULT 'Image', OUT entity_id bigint, OUT flags integer
) RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED COST 200 ROWS 100 AS 'MODULE_PATHNAME', 'reactions_by_user';
COMMENT ON FUNCTION by_user(bigint, text, integer, bigint, text) IS
    'a page of the entities that a user has reacted to, ascending by id; after is the last id of the page before';

CREATE FUNCTION kinds(flags integer, entity_type text DEFAULT 'Image') RETURNS text[]
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'reactions_kinds';
COMMENT ON FUNCTION kinds(integer, text) IS 'the names of the kinds that are set in the flags';

CREATE FUNCTION has(flags integer, kind text, entity_type text DEFAULT 'Image') RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'reactions_has';
COMMENT ON FUNCTION has(integer, text, text) IS 'whether the kind is set in the flags';

CREATE FUNCTION invalidate(entity_type text, user_id bigint DEFAULT NULL, entity_id bigint DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reactions_invalidate';
COMMENT ON FUNCTION invalidate(text, bigint, bigint) IS
    'drops what Redis keeps of a user or of an entity; the next read asks the truth';

