/*
 * Reading a user's flags.
 *
 *   attached, dual_read     the table
 *   switch_reads            Redis, on a miss the table
 *   all others              Redis, on a miss ClickHouse under the outbox
 *
 * A transaction that has written reads the table itself, which shows its own rows, or puts its own outbox rows over the answer: those
 * of commands before the active snapshot's, as for any table. Such a transaction never fills the cache.
 *
 * The truth is read under one newest snapshot, taken after Redis has answered the miss (a fill of what was read earlier could hide a
 * later event for ever), and under the lock that keeps the outbox from being truncated between the floor and the rows.
 *
 * A read that began when the table was the truth may come to ask it late:
 *
 *     reader: the table is the truth, Redis does not know  |  flip to stop_writes  |  others write v, ClickHouse confirms, the floor rises
 *     reader: the floor is at or above v, the table, which is frozen, has not got v: it would be answered, and filled, without v for ever
 *
 * So the phase is read in the same snapshot: one that shows v shows the flip before it. The read is then begun again with ClickHouse as
 * its truth. (The other way round nothing happens: ClickHouse under the outbox is right in every phase.)
 */
#include "read.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "compare.h"
#include "exchange.h"
#include "guc.h"
#include "outbox.h"
#include "report.h"
#include "shmem.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

typedef struct TruthQuestion
{
	ReactionType *type;
	int64		user_id;
	bool		from_table;
	bool		table_is_frozen;	/* the answer: the table is not the truth any more */
} TruthQuestion;

/* Whether what is read may be put into the cache: only if no snapshot that is used can hold something uncommitted or old. */
static bool
may_fill(void)
{
	return !RecoveryInProgress() && !IsInParallelMode() && !TransactionIdIsValid(GetTopTransactionIdIfAny());
}

/*
 * Makes sure that the events survive a crash. With synchronous_commit = off a commit is visible before it is flushed; a cache filled
 * with it would keep it when the crash takes it back.
 */
static void
flush_commits(const OutboxRow *rows, size_t count)
{
	XLogRecPtr	latest = InvalidXLogRecPtr;

	for (size_t i = 0; i < count; i++)
		latest = Max(latest, rows[i].commit_record);
	if (latest != InvalidXLogRecPtr && XLogNeedsFlush(latest))
		XLogFlush(latest);
}

static bool
give_truth(rx_exchange *exchange, void *context)
{
	TruthQuestion *question = context;
	MemoryContext local = AllocSetContextCreate(CurrentMemoryContext, "pg_reactions truth", ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = MemoryContextSwitchTo(local);
	rx_truth_wanted wanted;
	rx_truth	truth = {0};
	Snapshot	snapshot;
	OutboxRow  *rows;
	rx_event   *events;
	UserFlags	found = {NULL, NULL, 0, false};

	rx_wanted_truth(exchange, &wanted);
	outbox_lock();
	snapshot = RegisterSnapshot(catalog_newest_snapshot());
	question->table_is_frozen = question->from_table && !legacy_is_truth_in(catalog_phase_in(question->type, snapshot));
	if (question->table_is_frozen)
	{
		UnregisterSnapshot(snapshot);
		outbox_unlock();
		MemoryContextSwitchTo(before);
		MemoryContextDelete(local);
		return false;
	}
	truth.floor = outbox_floor(snapshot);
	rows = outbox_scan(question->type, question->user_id, NULL, OUTBOX_COMMITTED_IN, snapshot, &truth.outbox_count);
	if (question->from_table)
	{
		found = wanted.whole_user
			? legacy_read_user(question->type, question->user_id, wanted.limit, snapshot)
			: legacy_read_entities(question->type, question->user_id, wanted.entity_ids, wanted.entity_count, snapshot);
		shmem_count(COUNTER_TABLE_READS, 1);
		shmem_count(COUNTER_TABLE_FALLBACKS, 1);
	}
	UnregisterSnapshot(snapshot);
	outbox_unlock();
	if (may_fill())
		flush_commits(rows, truth.outbox_count);

	events = MemoryContextAllocHuge(local, Max(truth.outbox_count, 1) * sizeof(rx_event));
	for (size_t i = 0; i < truth.outbox_count; i++)
		events[i] = rows[i].event;
	truth.outbox = events;
	truth.entity_ids = found.entity_ids;
	truth.flags = found.flags;
	truth.count = found.count;
	truth.overflow = found.overflow;
	rx_give_truth(exchange, &truth);

	MemoryContextSwitchTo(before);
	MemoryContextDelete(local);
	return true;
}

/*
 * Runs an exchange that answers with entities and flags, and copies the answer. Ends the exchange whatever happens.
 *
 * With `ids_count` the answer is as many flags, into `flags`, and how many of them Redis did not know, into `missed` unless that is
 * NULL; else it goes into `result` (memory of the current context).
 */
static bool
run(rx_exchange *exchange, TruthQuestion *question, size_t ids_count, int32 *flags, size_t *missed, UserFlags *result,
	rx_error *error)
{
	volatile bool done = false;

	PG_TRY();
	{
		done = exchange_run(exchange, give_truth, question, error);
		if (done)
		{
			rx_read_result answer;

			rx_read_answer(exchange, &answer);
			if (result != NULL)
			{
				result->count = answer.count;
				result->overflow = !answer.complete;
				result->entity_ids = MemoryContextAllocHuge(CurrentMemoryContext, Max(answer.count, 1) * sizeof(int64));
				result->flags = MemoryContextAllocHuge(CurrentMemoryContext, Max(answer.count, 1) * sizeof(int32));
				rx_copy_answer(exchange, result->entity_ids, result->flags);
			}
			else if (answer.count == ids_count)
			{
				rx_copy_answer(exchange, NULL, flags);
				if (missed != NULL)
					*missed = answer.missed;
			}
			else
				ereport(ERROR,
						(errcode(ERRCODE_INTERNAL_ERROR),
						 errmsg("read of %zu entities was answered with %zu", ids_count, answer.count)));
		}
	}
	PG_FINALLY();
	{
		rx_end(exchange);
		shmem_count_exchange();
	}
	PG_END_TRY();
	return done;
}

/* Begins again what was to be answered from a table that is frozen meanwhile. */
static bool
asks_clickhouse_instead(rx_read_request *request, TruthQuestion *question)
{
	if (!question->table_is_frozen)
		return false;
	question->from_table = false;
	question->table_is_frozen = false;
	request->truth = RX_TRUTH_CLICKHOUSE;
	return true;
}

static bool
run_for_ids(rx_read_request *request, TruthQuestion *question, int32 *flags, size_t *missed, rx_error *error)
{
	bool		done;

	do
		done = run(rx_read_begin(request), question, request->entity_count, flags, missed, NULL, error);
	while (asks_clickhouse_instead(request, question));
	return done;
}

static bool
run_for_user(rx_read_request *request, TruthQuestion *question, UserFlags *result, rx_error *error)
{
	bool		done;

	do
		done = run(rx_read_begin(request), question, 0, NULL, NULL, result, error);
	while (asks_clickhouse_instead(request, question));
	return done;
}

bool
reads_table_only(const ReactionType *type)
{
	return type->phase == PHASE_ATTACHED || type->phase == PHASE_DUAL_READ ||
		(type->phase == PHASE_SWITCH_READS && outbox_written_in_transaction());
}

static int
compare_ids(const void *left, const void *right)
{
	int64		a = *(const int64 *) left;
	int64		b = *(const int64 *) right;

	return a < b ? -1 : a > b ? 1 : 0;
}

/* The user's own uncommitted events that the active snapshot sees, in version order. */
static OutboxRow *
own_events(ReactionType *type, int64 user_id, size_t *count)
{
	OutboxRow  *rows;

	*count = 0;
	if (legacy_is_truth(type) || !outbox_written_in_transaction())
		return NULL;
	rows = outbox_scan(type, user_id, NULL, OUTBOX_OWN_BEFORE, GetActiveSnapshot(), count);
	if (*count > 1)
		qsort(rows, *count, sizeof(OutboxRow), outbox_row_compare);
	return rows;
}

static int32
with_event(int32 flags, const rx_event *event)
{
	return (flags & ~event->clear_mask) | event->set_mask;
}

static int
compare_entities(const void *left, const void *right)
{
	return compare_ids(*(const int64 *const *) left, *(const int64 *const *) right);
}

/* Applies own events, which are in version order, to the flags of the entities that were asked for. */
static void
lay_over(const int64 *entity_ids, size_t count, int32 *flags, const OutboxRow *own, size_t own_count)
{
	const int64 **places;

	if (own_count == 0)
		return;
	places = palloc_array(const int64 *, count);
	for (size_t i = 0; i < count; i++)
		places[i] = &entity_ids[i];
	qsort(places, count, sizeof(*places), compare_entities);
	for (size_t i = 0; i < own_count; i++)
	{
		const int64 *wanted = &own[i].event.entity_id;
		const int64 **place = bsearch(&wanted, places, count, sizeof(*places), compare_entities);

		if (place != NULL)
			flags[*place - entity_ids] = with_event(flags[*place - entity_ids], &own[i].event);
	}
}

static void
begin_request(rx_read_request *request, ReactionType *type, int64 user_id)
{
	memset(request, 0, sizeof(*request));
	request->type = catalog_boundary(type);
	request->user_id = user_id;
	request->may_fill = may_fill();
	request->truth = legacy_is_truth(type) ? RX_TRUTH_TABLE : RX_TRUTH_CLICKHOUSE;
}

Snapshot
register_table_snapshot(void)
{
	Snapshot	snapshot = RegisterSnapshot(catalog_newest_snapshot());

	if (!IsInParallelMode())
		snapshot->curcid = GetActiveSnapshot()->curcid;
	return snapshot;
}

/* The table's answer for the ids, in their order. */
static void
read_table_entities(ReactionType *type, int64 user_id, const int64 *entity_ids, size_t count, int32 *flags)
{
	Snapshot	snapshot = register_table_snapshot();
	UserFlags	found = legacy_read_entities(type, user_id, entity_ids, count, snapshot);

	UnregisterSnapshot(snapshot);
	shmem_count(COUNTER_TABLE_READS, 1);
	for (size_t i = 0; i < count; i++)
	{
		int64	   *place = bsearch(&entity_ids[i], found.entity_ids, found.count, sizeof(int64), compare_ids);

		flags[i] = place == NULL ? 0 : found.flags[place - found.entity_ids];
	}
}

void
read_from_table(ReactionType *type, int64 user_id, int64 entity_id, int32 *flags)
{
	read_table_entities(type, user_id, &entity_id, 1, flags);
}

bool
read_through_cache(ReactionType *type, int64 user_id, const int64 *entity_ids, size_t count, int32 *flags, size_t *missed,
				   rx_error *error)
{
	TruthQuestion question = {type, user_id, legacy_is_truth(type)};
	rx_read_request request;

	begin_request(&request, type, user_id);
	request.entity_ids = entity_ids;
	request.entity_count = count;
	return run_for_ids(&request, &question, flags, missed, error);
}

bool
read_entities(ReactionType *type, int64 user_id, const int64 *entity_ids, size_t count, int32 *flags, rx_error *error)
{
	OutboxRow  *own;
	size_t		own_count;

	if (count == 0)
		return true;
	shmem_count(COUNTER_READS, 1);
	if (reads_table_only(type))
	{
		read_table_entities(type, user_id, entity_ids, count, flags);
		if (type->phase == PHASE_DUAL_READ)
			compare_read(type, user_id, entity_ids, count, flags);
		return true;
	}
	guc_configure();
	if (!read_through_cache(type, user_id, entity_ids, count, flags, NULL, error))
		return false;
	own = own_events(type, user_id, &own_count);
	lay_over(entity_ids, count, flags, own, own_count);
	return true;
}

typedef struct EntityFlags
{
	int64		entity_id;
	int32		flags;
} EntityFlags;

/* Inlined comparisons: a user's whole map is sorted for a statement that asks row by row. */
#define ST_SORT sort_by_entity
#define ST_ELEMENT_TYPE EntityFlags
#define ST_COMPARE(a, b) ((a)->entity_id < (b)->entity_id ? -1 : (a)->entity_id > (b)->entity_id)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* Sorts by entity, puts own events over it and drops what ends without flags. */
static void
finish_whole_user(ReactionType *type, int64 user_id, UserFlags *result)
{
	size_t		own_count;
	OutboxRow  *own = own_events(type, user_id, &own_count);
	size_t		total = result->count + own_count;
	EntityFlags *pairs = MemoryContextAllocHuge(CurrentMemoryContext, Max(total, 1) * sizeof(EntityFlags));
	size_t		count = 0;

	for (size_t i = 0; i < result->count; i++)
		pairs[i] = (EntityFlags) {result->entity_ids[i], result->flags[i]};
	/* Entities that only own events speak of. */
	for (size_t i = 0; i < own_count; i++)
		pairs[result->count + i] = (EntityFlags) {own[i].event.entity_id, 0};
	sort_by_entity(pairs, total);
	for (size_t i = 0; i < total; i++)
	{
		if (count > 0 && pairs[count - 1].entity_id == pairs[i].entity_id)
			pairs[count - 1].flags |= pairs[i].flags;
		else
			pairs[count++] = pairs[i];
	}
	for (size_t i = 0; i < own_count; i++)
	{
		EntityFlags *place = bsearch(&own[i].event.entity_id, pairs, count, sizeof(EntityFlags), compare_ids);

		place->flags = with_event(place->flags, &own[i].event);
	}
	result->entity_ids = repalloc_huge(result->entity_ids, Max(count, 1) * sizeof(int64));
	result->flags = repalloc_huge(result->flags, Max(count, 1) * sizeof(int32));
	result->count = 0;
	for (size_t i = 0; i < count; i++)
	{
		if (pairs[i].flags == 0)
			continue;
		result->entity_ids[result->count] = pairs[i].entity_id;
		result->flags[result->count++] = pairs[i].flags;
	}
	pfree(pairs);
}

bool
read_whole_user(ReactionType *type, int64 user_id, UserFlags *result, rx_error *error)
{
	TruthQuestion question = {type, user_id, legacy_is_truth(type)};
	rx_read_request request;

	shmem_count(COUNTER_READS, 1);
	if (reads_table_only(type))
	{
		Snapshot	snapshot = register_table_snapshot();

		*result = legacy_read_user(type, user_id, type->boundary.user_map_limit, snapshot);
		UnregisterSnapshot(snapshot);
		shmem_count(COUNTER_TABLE_READS, 1);
		return true;
	}
	guc_configure();
	begin_request(&request, type, user_id);
	request.whole_map = true;
	if (!run_for_user(&request, &question, result, error))
		return false;
	if (!result->overflow)
		finish_whole_user(type, user_id, result);
	return true;
}

int32
read_from_redis(ReactionType *type, int64 user_id, int64 entity_id)
{
	TruthQuestion question = {type, user_id, false};
	rx_read_request request;
	int32		flags;
	rx_error	error;

	if (!guc_try_configure())
		return -1;
	begin_request(&request, type, user_id);
	request.entity_ids = &entity_id;
	request.entity_count = 1;
	request.may_fill = false;
	request.truth = RX_TRUTH_NONE;
	return run_for_ids(&request, &question, &flags, NULL, &error) ? flags : -1;
}

static UserFlags
read_table_page(ReactionType *type, int64 user_id, int32 mask, int64 after, int limit)
{
	Snapshot	snapshot = register_table_snapshot();
	UserFlags	page = legacy_read_page(type, user_id, mask, after, limit, snapshot);

	UnregisterSnapshot(snapshot);
	shmem_count(COUNTER_TABLE_READS, 1);
	return page;
}

bool
read_page(ReactionType *type, int64 user_id, int32 mask, int64 after, int limit, UserFlags *result, rx_error *error)
{
	TruthQuestion question = {type, user_id, false};
	UserFlags	whole;
	size_t		own_count;

	if (legacy_is_truth(type) && reads_table_only(type))
	{
		shmem_count(COUNTER_READS, 1);
		*result = read_table_page(type, user_id, mask, after, limit);
		return true;
	}
	if (!read_whole_user(type, user_id, &whole, error))
		return false;
	if (!whole.overflow)
	{
		size_t		count = 0;

		for (size_t i = 0; i < whole.count && count < (size_t) limit; i++)
		{
			if (whole.entity_ids[i] <= after || (whole.flags[i] & mask) == 0)
				continue;
			whole.entity_ids[count] = whole.entity_ids[i];
			whole.flags[count++] = whole.flags[i];
		}
		whole.count = count;
		*result = whole;
		return true;
	}

	/* More than a map holds: a page of the truth. */
	if (legacy_is_truth(type))
	{
		shmem_count(COUNTER_TABLE_FALLBACKS, 1);
		*result = read_table_page(type, user_id, mask, after, limit);
		return true;
	}
	(void) own_events(type, user_id, &own_count);
	if (own_count > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot page through more than %d reactions in a transaction that has changed them",
						type->boundary.user_map_limit),
				 errhint("Commit first.")));
	guc_configure();
	return run(rx_page_begin(catalog_boundary(type), user_id, mask, after, limit), &question, 0, NULL, NULL, result, error);
}
