/*
 * Reading an entity's side: counts and reactors.
 *
 *   attached, dual_read     the table
 *   switch_reads            Redis, on a miss the table
 *   all others              Redis, on a miss ClickHouse, as of the newest batch that it has confirmed with all before it
 *
 * Redis and ClickHouse show what has been mirrored: a committed reaction is counted when the agent has counted it, a moment later. Own
 * uncommitted changes are seen where the table is read.
 *
 * Who is to be asked is decided when Redis has answered, by the phase in the same snapshot in which the table is read: one that shows
 * a frozen table shows the flip.
 *
 * Reactors have two orders. What a page began with it goes on with: by table as long as the table is the truth, by version as long as
 * ClickHouse has all of the type.
 */
#include "entity_read.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "exchange.h"
#include "guc.h"
#include "legacy.h"
#include "read.h"
#include "shmem.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define ATTR_BATCH 1
#define ATTR_CONFIRMED_AT 8

typedef struct EntityQuestion
{
	ReactionType *type;
	rx_count_subject subject;
	bool		may_use_table;
	bool		gives_up;		/* the answer: the table is to be read instead */
} EntityQuestion;

size_t
entity_fields(const ReactionType *type, rx_count_subject subject)
{
	return subject == RX_COUNT_KINDS ? type->boundary.kind_count : 1;
}

/*
 * The newest batch that ClickHouse has confirmed. Batches are confirmed in their order, so it has all before it, too. Before the first one,
 * as after a restore, whatever ClickHouse has.
 */
static int64
confirmed_batch(Snapshot snapshot)
{
	Relation	table = table_open(catalog_relations()->batch, AccessShareLock);
	Relation	key = index_open(catalog_relations()->batch_key, AccessShareLock);
	SysScanDesc scan = systable_beginscan_ordered(table, key, snapshot, 0, NULL);
	int64		batch = PG_INT64_MAX;
	HeapTuple	tuple;

	while ((tuple = systable_getnext_ordered(scan, BackwardScanDirection)) != NULL)
	{
		bool		is_null;

		if (heap_attisnull(tuple, ATTR_CONFIRMED_AT, RelationGetDescr(table)))
			continue;
		batch = DatumGetInt64(heap_getattr(tuple, ATTR_BATCH, RelationGetDescr(table), &is_null));
		break;
	}
	systable_endscan_ordered(scan);
	index_close(key, AccessShareLock);
	table_close(table, AccessShareLock);
	return batch;
}

/* Until everything is in ClickHouse, so that the agent counts the type, Redis is not asked either. */
static bool
only_table_knows(const ReactionType *type)
{
	return reads_table_only(type) || (legacy_is_truth(type) && !type->backfilled);
}

static void
count_in_table(EntityQuestion *question, const int64 *entity_ids, size_t count, int64 *numbers, Snapshot snapshot)
{
	shmem_count(COUNTER_TABLE_READS, 1);
	if (question->subject == RX_COUNT_KINDS)
		legacy_count_kinds(question->type, entity_ids, count, numbers, snapshot);
	else
		legacy_count_users(question->type, entity_ids, count, numbers, snapshot);
}

/* Whether the table answers for what Redis does not have; reactors of which Redis has a part are ClickHouse's. */
static bool
table_answers(EntityQuestion *question, size_t wanted, Snapshot snapshot)
{
	return question->may_use_table && wanted > 0 && legacy_is_truth(question->type) &&
		legacy_is_truth_in(catalog_phase_in(question->type, snapshot));
}

static bool
give_counts(rx_exchange *exchange, void *context)
{
	EntityQuestion *question = context;
	Snapshot	snapshot = RegisterSnapshot(catalog_newest_snapshot());
	const int64_t *entity_ids;
	size_t		count;

	rx_wanted_entities(exchange, &entity_ids, &count);
	if (table_answers(question, count, snapshot))
	{
		size_t		total = count * entity_fields(question->type, question->subject);
		int64	   *numbers = palloc_array(int64, Max(total, 1));

		shmem_count(COUNTER_TABLE_FALLBACKS, 1);
		count_in_table(question, entity_ids, count, numbers, snapshot);
		rx_give_counts(exchange, numbers, total);
		pfree(numbers);
	}
	else
		rx_give_batch(exchange, confirmed_batch(snapshot));
	UnregisterSnapshot(snapshot);
	return true;
}

static bool
give_batch(rx_exchange *exchange, void *context)
{
	EntityQuestion *question = context;
	Snapshot	snapshot = RegisterSnapshot(catalog_newest_snapshot());
	const int64_t *entity_ids;
	size_t		count;

	rx_wanted_entities(exchange, &entity_ids, &count);
	question->gives_up = table_answers(question, count, snapshot);
	if (!question->gives_up)
		rx_give_batch(exchange, confirmed_batch(snapshot));
	UnregisterSnapshot(snapshot);
	return !question->gives_up;
}

bool
entity_counts(ReactionType *type, rx_count_subject subject, const int64 *entity_ids, size_t count, int64 *numbers, uint8 *tiers,
			  rx_error *error)
{
	EntityQuestion question = {type, subject, subject != RX_COUNT_EVER_REACTED};
	rx_counts_request request = {catalog_boundary(type), entity_ids, count, subject};
	rx_exchange *exchange;
	volatile bool done = false;

	if (count == 0)
		return true;
	shmem_count(COUNTER_READS, 1);
	if (question.may_use_table && only_table_knows(type))
	{
		Snapshot	snapshot = register_table_snapshot();

		count_in_table(&question, entity_ids, count, numbers, snapshot);
		UnregisterSnapshot(snapshot);
		if (tiers != NULL)
			memset(tiers, 0, count);
		return true;
	}
	guc_configure();
	exchange = rx_counts_begin(&request);
	PG_TRY();
	{
		done = exchange_run(exchange, give_counts, &question, error);
		if (done)
			rx_copy_counts(exchange, numbers, tiers);
	}
	PG_FINALLY();
	{
		rx_end(exchange);
		shmem_count_exchange();
	}
	PG_END_TRY();
	return done;
}

bool
entity_status(ReactionType *type, int64 entity_id, rx_entity_status *status, rx_error *error)
{
	rx_exchange *exchange;
	volatile bool done = false;

	guc_configure();
	exchange = rx_entity_status_begin(catalog_boundary(type), entity_id);
	PG_TRY();
	{
		done = exchange_run(exchange, NULL, NULL, error);
		if (done)
			rx_entity_status_answer(exchange, status);
	}
	PG_FINALLY();
	{
		rx_end(exchange);
		shmem_count_exchange();
	}
	PG_END_TRY();
	return done;
}

/* A place behind which there is nothing that could be told. */
static void
refuse_place(const ReactionType *type)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the cursor belongs to an order in which reactions on entity type \"%s\" are no longer read", type->name),
			 errdetail("Since the page before, the type has changed its phase."),
			 errhint("Begin anew, without a cursor.")));
}

static EntityReactor *
reactors_of_table(ReactionType *type, int64 entity_id, int32 mask, const ReactorPlace *after, int limit, size_t *count)
{
	TableReactor bound = {0};
	Snapshot	snapshot = register_table_snapshot();
	TableReactor *found;
	EntityReactor *reactors;

	if (after != NULL)
		bound = (TableReactor) {after->position.user_id, after->created_at, 0};
	shmem_count(COUNTER_TABLE_READS, 1);
	found = legacy_read_reactors(type, entity_id, mask, after == NULL ? NULL : &bound, limit, snapshot, count);
	UnregisterSnapshot(snapshot);
	reactors = palloc0_array(EntityReactor, Max(*count, 1));
	for (size_t i = 0; i < *count; i++)
	{
		reactors[i].flags = found[i].flags;
		reactors[i].place.order = ORDER_BY_TABLE;
		reactors[i].place.position.user_id = found[i].user_id;
		reactors[i].place.created_at = found[i].created_at;
	}
	return reactors;
}

static EntityReactor *
copy_reactors(rx_exchange *exchange, size_t *count)
{
	rx_reactors_result result;
	rx_reactor *found;
	EntityReactor *reactors;

	rx_reactors_answer(exchange, &result);
	*count = result.count;
	found = palloc_array(rx_reactor, Max(result.count, 1));
	rx_copy_reactors(exchange, found);
	reactors = palloc0_array(EntityReactor, Max(result.count, 1));
	for (size_t i = 0; i < result.count; i++)
	{
		reactors[i].flags = found[i].flags;
		reactors[i].place = (ReactorPlace) {ORDER_BY_VERSION, found[i].position, 0, result.seen_batch, result.seen_part};
	}
	return reactors;
}

EntityReactor *
entity_reactors(ReactionType *type, int64 entity_id, int32 mask, const ReactorPlace *after, int limit, size_t *count,
				rx_error *error)
{
	EntityQuestion question = {type, RX_COUNT_KINDS, after == NULL};
	rx_reactors_request request = {catalog_boundary(type), entity_id, mask, limit};
	rx_exchange *exchange;
	EntityReactor *volatile reactors = NULL;

	shmem_count(COUNTER_READS, 1);
	if (after == NULL ? only_table_knows(type) : after->order == ORDER_BY_TABLE)
	{
		if (!legacy_is_truth(type))
			refuse_place(type);
		return reactors_of_table(type, entity_id, mask, after, limit, count);
	}
	if (!type->backfilled)
		refuse_place(type);
	if (after != NULL)
	{
		request.has_bound = 1;
		request.bound = after->position;
		request.seen_batch = after->seen_batch;
		request.seen_part = after->seen_part;
	}
	guc_configure();
	exchange = rx_reactors_begin(&request);
	PG_TRY();
	{
		if (exchange_run(exchange, give_batch, &question, error))
			reactors = copy_reactors(exchange, count);
	}
	PG_FINALLY();
	{
		rx_end(exchange);
		shmem_count_exchange();
	}
	PG_END_TRY();
	if (!question.gives_up)
		return reactors;
	shmem_count(COUNTER_TABLE_FALLBACKS, 1);
	return reactors_of_table(type, entity_id, mask, NULL, limit, count);
}
