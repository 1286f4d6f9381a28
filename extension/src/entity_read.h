/* An entity's side: who has reacted, and how many, from wherever the phase reads it. */
#ifndef PG_REACTIONS_ENTITY_READ_H
#define PG_REACTIONS_ENTITY_READ_H

#include "legacy_entity.h"

/* How many numbers a subject has for each entity. */
extern size_t entity_fields(const ReactionType *type, rx_count_subject subject);

/*
 * Numbers of the (distinct) entities, entity by entity, into `numbers`; into `tiers`, unless that is NULL, what Redis says of each. False if they cannot be
 * known at present: `error` says why.
 */
extern bool entity_counts(ReactionType *type, rx_count_subject subject, const int64 *entity_ids, size_t count, int64 *numbers,
						  uint8 *tiers, rx_error *error);

/* What Redis keeps of the entity; false if that cannot be known at present. */
extern bool entity_status(ReactionType *type, int64 entity_id, rx_entity_status *status, rx_error *error);

/* The order that a page of reactors belongs to. */
typedef enum ReactorOrder
{
	ORDER_BY_VERSION = 'v',		/* by the newest event: Redis and ClickHouse */
	ORDER_BY_TABLE = 't'		/* by the attached table's column of times */
} ReactorOrder;

/* Where a page ends, and the next one begins. */
typedef struct ReactorPlace
{
	ReactorOrder order;
	rx_position position;		/* by version; by table only its user */
	TimestampTz created_at;		/* by table */
	int64		seen_batch;		/* by version */
	int32		seen_part;
} ReactorPlace;

typedef struct EntityReactor
{
	int32		flags;
	ReactorPlace place;
} EntityReactor;

/*
 * Up to `limit` users who have one of the kinds of `mask`, newest first, behind `after` unless that is NULL; palloc'd. Fewer than the limit:
 * there is nobody else. NULL if that cannot be known at present. Raises for a place that does not exist any more.
 */
extern EntityReactor *entity_reactors(ReactionType *type, int64 entity_id, int32 mask, const ReactorPlace *after, int limit,
									  size_t *count, rx_error *error);

#endif							/* PG_REACTIONS_ENTITY_READ_H */
