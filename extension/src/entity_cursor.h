/* Cursors of reactors: a place as an opaque text. */
#ifndef PG_REACTIONS_ENTITY_CURSOR_H
#define PG_REACTIONS_ENTITY_CURSOR_H

#include "entity_read.h"

/* A place among those who have reacted to the entity with one of the kinds. palloc'd. */
extern char *entity_cursor_text(const ReactionType *type, int64 entity_id, int32 mask, const ReactorPlace *place);

/* The place of such a text; raises 22023 if it is not one of this entity and these kinds. */
extern ReactorPlace entity_cursor_place(const ReactionType *type, int64 entity_id, int32 mask, const char *text);

#endif							/* PG_REACTIONS_ENTITY_CURSOR_H */
