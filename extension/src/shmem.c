/*
 * Counters.
 *
 * Preloaded, they are atomics in shared memory: every backend adds, nobody locks, a reader may see one counter newer than another.
 * Otherwise they are this session's own.
 */
#include "shmem.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

typedef struct SharedCounters
{
	TimestampTz since;			/* written before any backend is there */
	pg_atomic_uint64 values[COUNTERS];
} SharedCounters;

#define COUNTER_NAME(name, text) #text,
static const char *const counter_names[COUNTERS] = {COUNTERS_OF_ALL(COUNTER_NAME)};

static SharedCounters *shared = NULL;
static uint64 own[COUNTERS];
static TimestampTz own_since;

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
	{
		shared->since = GetCurrentTimestamp();
		for (int i = 0; i < COUNTERS; i++)
			pg_atomic_init_u64(&shared->values[i], 0);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
shmem_init(void)
{
	own_since = GetCurrentTimestamp();
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
#define COUNT(name, text) shmem_count(COUNTER_##name, counted.text);
	RX_COUNTERS(COUNT)
}

PG_FUNCTION_INFO_V1(reactions_stats);

/* reactions._stats() returns setof (name text, value bigint, shared boolean, since timestamptz) */
Datum
reactions_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < COUNTERS; i++)
	{
		Datum		values[4];
		bool		nulls[4] = {false};

		values[0] = CStringGetTextDatum(counter_names[i]);
		values[1] = Int64GetDatum(shared != NULL ? pg_atomic_read_u64(&shared->values[i]) : own[i]);
		values[2] = BoolGetDatum(shared != NULL);
		values[3] = TimestampTzGetDatum(shared != NULL ? shared->since : own_since);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
