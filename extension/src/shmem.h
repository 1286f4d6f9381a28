/* Counters: shared by all backends when the library is preloaded, else of this session. */
#ifndef PG_REACTIONS_SHMEM_H
#define PG_REACTIONS_SHMEM_H

#include "compat.h"

#include "CReactionsBoundary.h"

/* What C counts, and then what Swift counts: in this order in reactions.stats. */
#define COUNTERS_OF_ALL(X) \
	X(READS, reads) \
	X(TABLE_FALLBACKS, table_fallbacks)	/* queries of attached tables, because Redis did not have it all */ \
	X(TABLE_READS, table_reads)			/* those and all others */ \
	X(EVENTS_INSERTED, events_inserted) \
	X(APPLY_ABANDONED, apply_abandoned) \
	RX_COUNTERS(X)

#define COUNTER_CONSTANT(name, text) COUNTER_##name,
typedef enum Counter
{
	COUNTERS_OF_ALL(COUNTER_CONSTANT)
	COUNTERS
} Counter;

extern void shmem_init(void);
extern bool shmem_is_shared(void);

/* Never raises. */
extern void shmem_count(Counter counter, uint64 by);

/* Adds what the Swift half has counted since the last call. */
extern void shmem_count_exchange(void);

#endif							/* PG_REACTIONS_SHMEM_H */
