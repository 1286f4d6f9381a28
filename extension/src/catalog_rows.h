/* What the catalog of a backend is read from. */
#ifndef PG_REACTIONS_CATALOG_ROWS_H
#define PG_REACTIONS_CATALOG_ROWS_H

#include "catalog.h"

typedef struct Catalog
{
	MemoryContext context;
	CatalogRelations relations;
	List	   *types;			/* of ReactionType * */

	/* What only writes and misses need, read when they do. */
	bool		has_rest;
	int			current_outbox;
	bool		has_refused;
} Catalog;

/* A relation of the extension; an error if there is none. */
extern Oid	catalog_own_relation(Oid namespace_id, const char *name);

/* Types and kinds, in a memory context of their own below CacheMemoryContext. */
extern Catalog *catalog_read(void);

/* Adds what only writes and misses need. */
extern void catalog_read_rest(Catalog *into);

/* The phase of a type as the snapshot sees it. */
extern ReactionPhase catalog_read_phase(Oid entity_types, int16 type_id, Snapshot snapshot);

#endif
