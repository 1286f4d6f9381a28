/*
 * reactions.write_back_refused: what ClickHouse has and an attached table has not, or the other way round, since the table refused to
 * take it back. Most databases never have any, and then no captured statement looks.
 */
#include "refused.h"

#include "access/genam.h"
#include "access/table.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

enum
{
	ATTR_TYPE_ID = 1,
	ATTR_USER_ID,
	ATTR_ENTITY_ID
};

static bool
is_refused(Relation relation, Oid index, const ReactionType *type, const OutboxEvent *event)
{
	ScanKeyData keys[3];
	SysScanDesc scan;
	bool		found;

	ScanKeyInit(&keys[0], ATTR_TYPE_ID, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(type->type_id));
	ScanKeyInit(&keys[1], ATTR_USER_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(event->user_id));
	ScanKeyInit(&keys[2], ATTR_ENTITY_ID, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(event->entity_id));
	/* Committed with the flip that every writer has seen; a snapshot would cost SERIALIZABLE users false failures. */
	scan = systable_beginscan(relation, index, true, SnapshotSelf, 3, keys);
	found = systable_getnext(scan) != NULL;
	systable_endscan(scan);
	return found;
}

void
refused_mark(const ReactionType *type, OutboxEvent *events, size_t count)
{
	const CatalogRelations *relations = catalog_relations();
	Relation	relation;

	if (!catalog_has_refused())
		return;
	relation = table_open(relations->refused, AccessShareLock);
	for (size_t i = 0; i < count; i++)
		if (events[i].delta_known && is_refused(relation, relations->refused_key, type, &events[i]))
			events[i].delta_known = false;
	table_close(relation, AccessShareLock);
}
