/* Counters: shared by all backends when the library is preloaded, else of this session. */
#ifndef PG_REACTIONS_SHMEM_H
#define PG_REACTIONS_SHMEM_H

#include "compat.h"

typedef enum Counter
{
	COUNTER_READS,
	COUNTER_HITS,
	COUNTER_MISSES,
	COUNTER_FILLS,
	COUNTER_FILLS_REFUSED,
	COUNTER_REDIS_ROUND_TRIPS,
	COUNTER_REDIS_CONNECTS,
	COUNTER_REDIS_FAILURES,
	COUNTER_CLICKHOUSE_REQUESTS,
	COUNTER_CLICKHOUSE_FAILURES,
	COUNTER_TABLE_READS,
	COUNTER_BREAKER_OPENED,
	COUNTER_EVENTS_INSERTED,
	COUNTER_APPLY_ABANDONED,
	COUNTERS
} Counter;

extern void shmem_init(void);
extern bool shmem_is_shared(void);

/* Never raises. */
extern void shmem_count(Counter counter, uint64 by);

/* Adds what the Swift half has counted since the last call. */
extern void shmem_count_exchange(void);

#endif							/* PG_REACTIONS_SHMEM_H */
