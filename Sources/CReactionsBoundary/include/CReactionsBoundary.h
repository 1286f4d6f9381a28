/*
 * The whole contract between the C half of pg_reactions (which owns every call into PostgreSQL) and its Swift half (which owns
 * Redis, ClickHouse and every decision about what their answers mean).
 *
 * Rules of the border
 *   - One thread. Swift never calls PostgreSQL; no PostgreSQL error ever jumps over a Swift frame.
 *   - Swift never waits. An exchange is a machine: `rx_*_begin` makes it, `rx_step` advances it, and the answer says what C has to
 *     do next: wait for a socket or a timer, ask the truth, or stop. C waits with no Swift frame on the stack.
 *   - Every exchange that was begun is ended with `rx_end`, also after an error or a cancel (PG_FINALLY). Ending an exchange in
 *     mid-conversation closes its connection: a half-read reply is never mistaken for the next one.
 *   - Memory that Swift returns belongs to the exchange and is valid until its next `rx_step` or `rx_end`. Memory that C passes is
 *     read before the call returns; Swift keeps copies only.
 *   - Nothing here traps. A failure is the action RX_FAILED and a filled `rx_error`.
 */
#ifndef CREACTIONSBOUNDARY_H
#define CREACTIONSBOUNDARY_H

#include <stddef.h>
#include <stdint.h>

/* What a failed exchange says. C turns `code` into an SQLSTATE in one place (report.c). Texts follow PostgreSQL's style guide. */
typedef enum rx_error_code
{
	RX_ERROR_NONE = 0,
	RX_ERROR_REDIS_UNREACHABLE = 1,		 /* cannot connect, connection lost, time-out, breaker open */
	RX_ERROR_REDIS_REFUSED = 2,			 /* password or ACL */
	RX_ERROR_REDIS_NONSENSE = 3,		 /* a reply that breaks the protocol or is not of the expected shape */
	RX_ERROR_CLICKHOUSE_UNREACHABLE = 4,
	RX_ERROR_CLICKHOUSE_REFUSED = 5,
	RX_ERROR_CLICKHOUSE_NONSENSE = 6,
	RX_ERROR_CLICKHOUSE_FAILED = 7,		 /* an error answer of the server, its code in the detail */
	RX_ERROR_NOT_CONFIGURED = 8,		 /* an endpoint is needed and not set, or cannot be parsed */
	RX_ERROR_OUT_OF_RANGE = 9,			 /* a number from outside that does not fit */
	RX_ERROR_INTERNAL = 10				 /* the contract was broken by the caller */
} rx_error_code;

typedef struct rx_error
{
	int32_t		code;			/* rx_error_code */
	char		message[256];	/* NUL-terminated UTF-8 */
	char		detail[512];
	char		hint[256];
} rx_error;

/* Where the servers are; from the reactions.* settings and the secrets file. Strings are NUL-terminated, empty means unset. */
typedef struct rx_settings
{
	const char *redis_url;				/* redis://host:port,host:port/db, redis-sentinel://host:port/master?db=0 or unix:///path?db=0 */
	const char *redis_user;
	const char *redis_password;
	const char *redis_sentinel_user;
	const char *redis_sentinel_password;
	const char *key_prefix;
	const char *clickhouse_url;			/* http://host:8123 */
	const char *clickhouse_database;
	const char *clickhouse_user;
	const char *clickhouse_password;
	int32_t		redis_connect_timeout_ms;
	int32_t		redis_timeout_ms;
	int32_t		clickhouse_timeout_ms;
	int32_t		fill_wait_ms;			/* how long a read waits for another session's fill of the same map, or an install of the same entity */
	int32_t		hgetall_threshold;		/* see rx_read_request.entity_count: at or above this many ids HGETALL is cheaper for a
										 * map small enough to be a listpack */
} rx_settings;

/* An entity type, as far as Redis and ClickHouse are concerned. */
typedef struct rx_kind
{
	const char *name;			/* "Like" */
	int32_t		flag;			/* a power of two */
} rx_kind;

typedef struct rx_type
{
	const char *name;			/* "Image": entityType in ClickHouse */
	const char *user_map_template;	/* "reactions:<user>" */
	const char *entity_template;	/* "post:<shard>:<entity>" */
	int32_t		shard_count;
	int32_t		user_map_limit;	/* a user with more reactions has a partial map */
	int32_t		user_map_ttl_s;
	int32_t		user_map_max_age_s;
	const rx_kind *kinds;
	size_t		kind_count;
	uint64_t	serial;			/* another one whenever something above may differ: copies are kept by it */

	/* What the stamp of a valid map is made of, besides Redis's run id */
	uint64_t	system_identifier;
	uint32_t	timeline;
	int64_t		epoch;
} rx_type;

/* One committed or pending event: bits set and bits cleared on one reaction. */
typedef struct rx_event
{
	int64_t		user_id;
	int64_t		entity_id;
	int64_t		version;
	int32_t		set_mask;
	int32_t		clear_mask;
} rx_event;

typedef struct rx_exchange rx_exchange;

/* What C has to do next. */
typedef enum rx_action
{
	RX_DONE = 0,				/* the result is ready */
	RX_FAILED = 1,				/* rx_failure says why */
	RX_WAIT_READ = 2,			/* wait until `fd` is readable, at most `timeout_ms` */
	RX_WAIT_WRITE = 3,			/* ... writable */
	RX_WAIT_TIMER = 4,			/* wait `timeout_ms`, for no socket */
	RX_WANT_TRUTH = 5			/* rx_wanted_truth says what of; answer with rx_give_truth, then step */
} rx_action;

/* What a wait ended with; RX_READY_NONE on the first step. */
typedef enum rx_ready
{
	RX_READY_NONE = 0,
	RX_READY_SOCKET = 1,
	RX_READY_TIMEOUT = 2
} rx_ready;

typedef struct rx_wait
{
	int32_t		action;			/* rx_action */
	int32_t		fd;
	int32_t		timeout_ms;
	uint64_t	connection;		/* what `fd` belongs to, for a waiter that keeps what it has set up for it; 0: unknown */
} rx_wait;

/* ---- session ------------------------------------------------------------------------------------------------------------- */

/* Takes the settings; closes connections that they no longer describe. Cheap to call again with the same settings. */
void		rx_configure(const rx_settings *settings);

/* Sets up what Swift's runtime keeps, for the processes that a preloading server forks. Opens and keeps nothing. */
void		rx_warm_up(void);

/* Closes every connection, at backend exit or on request. */
void		rx_disconnect(void);

/*
 * What the Swift half counts, as X(FOR_C, name). Each is a row of reactions.stats under its name.
 *
 * Of a user's reactions that were asked for: `hits` Redis has answered, for `misses` the truth was asked. Of entities Redis has answered the
 * hits of a tier; a tier's misses are there but do not hold what was asked (a page below the sample, users of a viral entity, a list that
 * is gone); absent ones are not there. Every entity that Redis was asked for is one of these five, once, unless the read has failed by then.
 */
#define RX_COUNTERS(X) \
	X(HITS, hits) \
	X(MISSES, misses) \
	X(FILLS, fills) \
	X(FILLS_REFUSED, fills_refused)				/* the nonce had changed */ \
	X(REGULAR_ENTITY_HITS, regular_entity_hits) \
	X(REGULAR_ENTITY_MISSES, regular_entity_misses) \
	X(VIRAL_ENTITY_HITS, viral_entity_hits) \
	X(VIRAL_ENTITY_MISSES, viral_entity_misses) \
	X(ABSENT_ENTITY_MISSES, absent_entity_misses) \
	X(CLICKHOUSE_FALLBACKS, clickhouse_fallbacks)	/* queries, because Redis did not have it all */ \
	X(CLICKHOUSE_REQUESTS, clickhouse_requests)	/* those and all others */ \
	X(CLICKHOUSE_FAILURES, clickhouse_failures) \
	X(REDIS_ROUND_TRIPS, redis_round_trips) \
	X(REDIS_CONNECTS, redis_connects) \
	X(REDIS_FAILURES, redis_failures) \
	X(BREAKER_OPENED, breaker_opened)

#define RX_COUNTER_FIELD(for_c, name) int64_t name;
typedef struct rx_counters
{
	RX_COUNTERS(RX_COUNTER_FIELD)
} rx_counters;

/* Moves what was counted since the last call into `counters`. */
void		rx_take_counters(rx_counters *counters);

/* ---- every exchange ------------------------------------------------------------------------------------------------------ */

rx_wait		rx_step(rx_exchange *exchange, int32_t ready);
void		rx_failure(rx_exchange *exchange, rx_error *error);
void		rx_end(rx_exchange *exchange);

/* ---- reading a user's flags ---------------------------------------------------------------------------------------------- */

typedef enum rx_truth_source
{
	RX_TRUTH_NONE = 0,			/* Redis only: what it does not know stays unknown (used by writes) */
	RX_TRUTH_TABLE = 1,			/* C answers rx_wanted_truth from the legacy table */
	RX_TRUTH_CLICKHOUSE = 2		/* C gives outbox and floor, Swift asks ClickHouse */
} rx_truth_source;

typedef struct rx_read_request
{
	const rx_type *type;
	int64_t		user_id;
	const int64_t *entity_ids;	/* distinct; NULL with whole_map */
	size_t		entity_count;
	uint8_t		whole_map;		/* 1: every reaction of the user; the result says whether it is all of them */
	uint8_t		may_fill;		/* 0 in a transaction with an xid, in recovery and in parallel mode */
	uint8_t		skip_redis;		/* 1: ask the truth only (also fills nothing) */
	int32_t		truth;			/* rx_truth_source */
} rx_read_request;

rx_exchange *rx_read_begin(const rx_read_request *request);

/* After RX_WANT_TRUTH. */
typedef struct rx_truth_wanted
{
	uint8_t		whole_user;		/* 1: up to `limit` + 1 reactions of the user; 0: the ids below */
	int32_t		limit;
	const int64_t *entity_ids;
	size_t		entity_count;
} rx_truth_wanted;

void		rx_wanted_truth(rx_exchange *exchange, rx_truth_wanted *wanted);

/*
 * The truth, outbox and floor as of one snapshot taken after RX_WANT_TRUTH was returned. `outbox` holds the user's committed
 * events that are visible in it, in any order. With RX_TRUTH_TABLE, `entity_ids` and `flags` are the table's answer (entities
 * without a reaction left out) and `overflow` says that there were more than `limit`, in which case they are ignored and the ids
 * are wanted instead.
 */
typedef struct rx_truth
{
	int64_t		floor;
	const rx_event *outbox;
	size_t		outbox_count;
	const int64_t *entity_ids;
	const int32_t *flags;
	size_t		count;
	uint8_t		overflow;
} rx_truth;

void		rx_give_truth(rx_exchange *exchange, const rx_truth *truth);

/*
 * After RX_DONE. Of a read by ids: `count` equals the request's, in its order; a flag of -1 is unknown (RX_TRUTH_NONE only). Of a
 * whole map: every entity with flags other than 0, in no order; `complete` 0 says that the user has more than the map's limit
 * and that nothing of it is returned.
 */
typedef struct rx_read_result
{
	size_t		count;
	size_t		missed;			/* ids that the map did not know */
	uint8_t		complete;
} rx_read_result;

void		rx_read_answer(rx_exchange *exchange, rx_read_result *result);

/* Copies the answer into C's memory: `count` numbers each. `entity_ids` NULL: they are known, as after a read by ids. */
void		rx_copy_answer(rx_exchange *exchange, int64_t *entity_ids, int32_t *flags);

/*
 * One page of a user's reactions from ClickHouse under the outbox: entities above `after` in ascending order on which one of the
 * bits of `mask` is set. Result as of a whole map, in ascending order, at most `limit`. Wants the truth once (outbox and floor).
 */
rx_exchange *rx_page_begin(const rx_type *type, int64_t user_id, int32_t mask, int64_t after, int32_t limit);

/* ---- reading entities ---------------------------------------------------------------------------------------------------- */

/* What is counted. */
typedef enum rx_count_subject
{
	RX_COUNT_KINDS = 0,			/* a number for each kind of the type, in its order */
	RX_COUNT_USERS = 1,			/* one number: users who have any kind */
	RX_COUNT_EVER_REACTED = 2	/* one number: an estimate of the users who have ever had one; of ClickHouse alone */
} rx_count_subject;

typedef struct rx_counts_request
{
	const rx_type *type;
	const int64_t *entity_ids;	/* distinct */
	size_t		entity_count;
	int32_t		subject;		/* rx_count_subject */
} rx_counts_request;

rx_exchange *rx_counts_begin(const rx_counts_request *request);

/* After RX_DONE. Copies the numbers, entity by entity, and the tier that Redis has of each: 'r' regular, 'v' viral, 0 none. */
void		rx_copy_counts(rx_exchange *exchange, int64_t *numbers, uint8_t *tiers);

/* Where a user stands among those who have reacted to an entity: descending by version, time, user. */
typedef struct rx_position
{
	int64_t		version;		/* of the user's newest event on the entity */
	int64_t		user_id;
	uint32_t	time;			/* Unix seconds; 0: not known */
} rx_position;

typedef struct rx_reactors_request
{
	const rx_type *type;
	int64_t		entity_id;
	int32_t		mask;			/* those who have one of these kinds */
	int32_t		limit;
	uint8_t		has_bound;		/* 1: below `bound`; 0: from the newest on */
	rx_position bound;
	int64_t		seen_batch;		/* of the result of the page before; 0, 0 on the first one */
	int32_t		seen_part;
} rx_reactors_request;

rx_exchange *rx_reactors_begin(const rx_reactors_request *request);

typedef struct rx_reactor
{
	rx_position position;
	int32_t		flags;			/* all of the user's */
} rx_reactor;

typedef struct rx_reactors_result
{
	size_t		count;			/* fewer than the limit: there is nobody else */
	int64_t		seen_batch;		/* up to where the page shows what has happened */
	int32_t		seen_part;
} rx_reactors_result;

/* After RX_DONE. */
void		rx_reactors_answer(rx_exchange *exchange, rx_reactors_result *result);
void		rx_copy_reactors(rx_exchange *exchange, rx_reactor *reactors);

/*
 * After RX_WANT_TRUTH of either: the entities that Redis does not have. None: the rest of an entity that it has in part. To be answered
 * with the table's numbers, as many as the request's subject has for each, or with the batch as of which ClickHouse is to be asked.
 */
void		rx_wanted_entities(rx_exchange *exchange, const int64_t **entity_ids, size_t *count);
void		rx_give_counts(rx_exchange *exchange, const int64_t *numbers, size_t count);
void		rx_give_batch(rx_exchange *exchange, int64_t batch);

/* What Redis keeps of an entity. Times are Unix seconds, 0 if not known. */
typedef struct rx_entity_status
{
	uint8_t		tier;			/* 'r', 'v', 0: nothing */
	int64_t		tier_since;
	char		reason[64];		/* NUL-terminated */
	int64_t		counted_batch;	/* the last one with a change of the entity's */
	int64_t		built_at;
} rx_entity_status;

rx_exchange *rx_entity_status_begin(const rx_type *type, int64_t entity_id);
void		rx_entity_status_answer(rx_exchange *exchange, rx_entity_status *status);

/* ---- applying at commit -------------------------------------------------------------------------------------------------- */

/*
 * Notes the events (all of one type; in version order per key) to be applied when the transaction has committed. Called before commit,
 * where failing is harmless. May be called once per type. Returns the number of events that are noted afterwards.
 */
size_t		rx_apply_prepare(const rx_type *type, const rx_event *events, size_t count);

/* Connects to the servers of Redis that the noted events are for, as far as there is no connection; without a result. */
rx_exchange *rx_open_begin(void);

/* Sends what was noted, over connections that are open; nothing is connected to here. What has none is the agent's. Never fails:
 * RX_DONE also when it was given up. C polls with poll(2) and calls again; at its deadline it calls rx_apply_abandon, which closes
 * the connections on which a reply is outstanding. */
rx_wait		rx_apply_step(int32_t ready);
void		rx_apply_abandon(void);

/* ---- operations ---------------------------------------------------------------------------------------------------------- */

/* Drops the user's map (has_user) or the entity's keys from the cache. */
rx_exchange *rx_invalidate_begin(const rx_type *type, uint8_t has_user, int64_t user_id, uint8_t has_entity, int64_t entity_id);

/* Appends a record to the type's list of compared reads, of which Redis keeps the newest 10,000. */
rx_exchange *rx_compared_begin(const rx_type *type, const char *record, size_t length);

/* Drops the oldest `drop` records of that list, then reads the oldest `take`, in order. */
rx_exchange *rx_compared_take_begin(const rx_type *type, int32_t drop, int32_t take);

/* A record that was read, NULL behind the last one; not NUL-terminated. */
const char *rx_compared_record(rx_exchange *exchange, size_t index, size_t *length);

/* Asks both servers who they are, for doctor(). Never fails: what is wrong is in the result. */
typedef struct rx_probe_row
{
	const char *check;			/* "redis_reachable", "redis_maxmemory_policy", "clickhouse_reachable", "clickhouse_tables" */
	uint8_t		ok;
	const char *detail;
	const char *hint;			/* empty when ok */
} rx_probe_row;

rx_exchange *rx_probe_begin(void);
size_t		rx_probe_rows(rx_exchange *exchange, const rx_probe_row **rows);

/* ---- keys ---------------------------------------------------------------------------------------------------------------- */

/*
 * Checks a key template: NULL if it is good, else what is wrong with it, as a constant. `required` is "<user>" or "<entity>".
 * rx_template_shape writes the template with every placeholder and digit folded, so that two templates that could render to the
 * same key have the same shape; returns the length it needs.
 */
const char *rx_template_problem(const char *template_text, const char *required);
size_t		rx_template_shape(const char *template_text, char *out, size_t out_size);

#endif							/* CREACTIONSBOUNDARY_H */
