/*
 * Counters.
 *
 * Preloaded, they are atomics in shared memory: every backend adds, nobody locks, a reader may see one counter newer than another.
 * Otherwise they are this session's own.
 */
#include "shmem.h"

#include "CReactionsBoundary.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

typedef struct SharedCounters
{
	pg_atomic_uint64 values[COUNTERS];
} SharedCounters;

static const char *const counter_names[COUNTERS] = {
	"reads", "hits", "misses", "fills", "fills_refused", "redis_round_trips", "redis_connects", "redis_failures",
	"clickhouse_requests", "clickhouse_failures", "table_reads", "breaker_opened", "events_inserted", "apply_abandoned"
};

static SharedCounters *shared = NULL;
static uint64 own[COUNTERS];

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

static void
request(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(SharedCounters)));
}

static void
startup(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("pg_reactions counters", sizeof(SharedCounters), &found);
	if (!found)
		for (int i = 0; i < COUNTERS; i++)
			pg_atomic_init_u64(&shared->values[i], 0);
	LWLockRelease(AddinShmemInitLock);
}

void
shmem_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
}

bool
shmem_is_shared(void)
{
	return shared != NULL;
}

void
shmem_count(Counter counter, uint64 by)
{
	if (by == 0)
		return;
	if (shared != NULL)
		pg_atomic_fetch_add_u64(&shared->values[counter], by);
	else
		own[counter] += by;
}

void
shmem_count_exchange(void)
{
	rx_counters counted;

	rx_take_counters(&counted);
	shmem_count(COUNTER_HITS, counted.hits);
	shmem_count(COUNTER_MISSES, counted.misses);
	shmem_count(COUNTER_FILLS, counted.fills);
	shmem_count(COUNTER_FILLS_REFUSED, counted.fills_refused);
	shmem_count(COUNTER_REDIS_ROUND_TRIPS, counted.redis_round_trips);
	shmem_count(COUNTER_REDIS_CONNECTS, counted.redis_connects);
	shmem_count(COUNTER_REDIS_FAILURES, counted.redis_failures);
	shmem_count(COUNTER_CLICKHOUSE_REQUESTS, counted.clickhouse_requests);
	shmem_count(COUNTER_CLICKHOUSE_FAILURES, counted.clickhouse_failures);
	shmem_count(COUNTER_BREAKER_OPENED, counted.breaker_opened);
}

PG_FUNCTION_INFO_V1(reactions_stats);

/* reactions._stats() returns setof (counter text, value bigint, shared boolean) */
Datum
reactions_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < COUNTERS; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		values[0] = CStringGetTextDatum(counter_names[i]);
		values[1] = Int64GetDatum(shared != NULL ? pg_atomic_read_u64(&shared->values[i]) : own[i]);
		values[2] = BoolGetDatum(shared != NULL);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
