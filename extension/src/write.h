/* Changing a reaction. */
#ifndef PG_REACTIONS_WRITE_H
#define PG_REACTIONS_WRITE_H

#include "catalog.h"

#include "datatype/timestamp.h"

/* What react does in a type whose table, if it has one, is not written. The fence is held. */
extern void write_react(ReactionType *type, int64 user_id, int64 entity_id, int32 flag, TimestampTz created_at);

#endif							/* PG_REACTIONS_WRITE_H */
