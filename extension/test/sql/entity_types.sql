-- Making entity types and kinds.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
CALL test.forget_events();

SELECT reactions.add_entity_type('Alpha');
SELECT reactions.add_entity_type('Beta', 'exclusive', user_map_key => 'beta:<user>', entity_key => 'b:<shard>:<entity>', shard_count => 7);
SELECT entity_type, mode, phase, kinds, epoch, backfilled FROM reactions.status() WHERE entity_type IN ('Alpha', 'Beta');
SELECT entity_type, user_map_key, entity_key, shard_count FROM reactions.entity_type WHERE entity_type IN ('Alpha', 'Beta') ORDER BY 1;
SELECT k.kind, k.flag FROM reactions.kind k JOIN reactions.entity_type t USING (type_id) WHERE t.entity_type = 'Alpha' ORDER BY flag;
SELECT entity_type, from_phase, to_phase, changed_by = session_user FROM reactions.phase_log WHERE entity_type IN ('Alpha', 'Beta') ORDER BY phase_log_id;

-- Bad names, modes and templates.
SELECT reactions.add_entity_type('Alpha');
SELECT reactions.add_entity_type(NULL);
SELECT reactions.add_entity_type('');
SELECT reactions.add_entity_type('1st');
SELECT reactions.add_entity_type('a b');
SELECT reactions.add_entity_type('Bild', NULL);
SELECT reactions.add_entity_type('Bild', 'both');
SELECT reactions.add_entity_type('Bild', user_map_key => 'bild');
SELECT reactions.add_entity_type('Bild', user_map_key => 'bild:<entity>');
SELECT reactions.add_entity_type('Bild', entity_key => 'bild:<user>:<entity>');
SELECT reactions.add_entity_type('Bild', entity_key => 'bild:{<entity>}');
\set VERBOSITY sqlstate
SELECT reactions.add_entity_type(repeat('x', 49));
SELECT reactions.add_entity_type('Bild', entity_key => '');
SELECT reactions.add_entity_type('Bild', entity_key => repeat('x', 200) || '<entity>');
SELECT reactions.add_entity_type('Bild', shard_count => 0);
SELECT reactions.add_entity_type('Bild', shard_count => NULL);
\set VERBOSITY default

-- Templates that could render to one key: of two types, of one, and of a type's other keys.
SELECT reactions.add_entity_type('ALPHA');
SELECT reactions.add_entity_type('Gamma', user_map_key => 'beta:<user>');
-- Or to one of the agent's. A number is none of its keys.
SELECT reactions.add_entity_type('Gamma', user_map_key => 'reactions:applied:Alpha:<user>');
SELECT reactions.add_entity_type('Gamma', entity_key => 'reactions:wanted:Alpha<entity>');
BEGIN;
SELECT reactions.add_entity_type('Applied'), reactions.add_entity_type('Wanted', user_map_key => 'reactions:wanted:<user>');
ROLLBACK;
\set VERBOSITY sqlstate
SELECT reactions.add_entity_type('Gamma', user_map_key => 'beta:<shard><user>');
SELECT reactions.add_entity_type('Gamma', user_map_key => 'beta:7<user>');
SELECT reactions.add_entity_type('Gamma', entity_key => 'beta:<entity>');
SELECT reactions.add_entity_type('Gamma', user_map_key => 'gamma:<user>', entity_key => 'gamma:<entity>');
SELECT reactions.add_entity_type('Gamma', user_map_key => 'gamma:<user>:reactions', entity_key => 'gamma:<entity>');
SELECT reactions.add_entity_type('Gamma', user_map_key => 'b:<shard>:<user>:sample');
\set VERBOSITY default

-- Kinds, up to 31.
SELECT reactions.add_kind('Alpha', 'Dislike');
SELECT reactions.add_kind('Alpha', 'Dislike');
SELECT reactions.add_kind('Alpha', 'no spaces');
SELECT reactions.add_kind('Alpha', NULL);
SELECT reactions.add_kind('Nothing', 'Dislike');
SELECT max(reactions.add_kind('Alpha', 'Kind' || n)) FROM generate_series(6, 31) n;
SELECT reactions.add_kind('Alpha', 'Kind32');
SELECT cardinality(kinds) FROM reactions.status() WHERE entity_type = 'Alpha';
SELECT cardinality(reactions.kinds(2147483647, 'Alpha')), reactions.has(1073741824, 'Kind31', 'Alpha');
SELECT reactions.set_flags(1, 1, 2147483647, 'Alpha');
SELECT sets LIKE 'Like,Heart,%,Kind31' FROM test.new_events();

-- The epoch.
SELECT reactions.raise_epoch('Alpha');
SELECT reactions.raise_epoch('Alpha');
SELECT reactions.raise_epoch('Nothing');
SELECT epoch FROM reactions.status() WHERE entity_type IN ('Alpha', 'Beta');
