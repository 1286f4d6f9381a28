/*
 * What the catalog of a backend is read from: the extension's relations by name, and the rows of reactions.entity_type, kind and _mirror.
 */
#include "catalog_rows.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Columns of reactions.entity_type that are read here, in the order of sql/10_tables.sql. */
enum
{
	ATTR_TYPE_ID = 1,
	ATTR_ENTITY_TYPE,
	ATTR_MODE,
	ATTR_PHASE,
	ATTR_LEGACY_TABLE,
	ATTR_USER_COLUMN,
	ATTR_ENTITY_COLUMN,
	ATTR_KIND_COLUMN,
	ATTR_CREATED_COLUMN,
	ATTR_EXTRA_VALUES,
	ATTR_KIND_MAP,
	ATTR_UNKNOWN_KINDS,
	ATTR_BACKFILLED,
	ATTR_STOP_VERSION,
	ATTR_DIRECT_INSERTS,
	ATTR_AUTO_ADVANCE,
	ATTR_ACKNOWLEDGED,
	ATTR_USER_MAP_KEY,
	ATTR_ENTITY_KEY,
	ATTR_USER_MAP_SHAPE,
	ATTR_ENTITY_SHAPE,
	ATTR_SHARD_COUNT,
	ATTR_USER_MAP_LIMIT,
	ATTR_USER_MAP_TTL,
	ATTR_USER_MAP_MAX_AGE,
	ATTR_VIRAL_THRESHOLD,
	ATTR_REGULAR_THRESHOLD,
	ATTR_EPOCH
};

static const char *const phase_names[] = {
	"native", "attached", "dual_read", "switch_reads", "stop_writes", "archived", "detached"
};

Oid
catalog_own_relation(Oid namespace_id, const char *name)
{
	Oid			relation = get_relname_relid(name, namespace_id);

	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"reactions.%s\" does not exist", name),
				 errhint("Run CREATE EXTENSION pg_reactions in this database, or ALTER EXTENSION pg_reactions UPDATE.")));
	return relation;
}

/* What every call needs. */
static void
find_relations(CatalogRelations *relations)
{
	Oid			namespace_id = get_namespace_oid("reactions", true);

	if (!OidIsValid(namespace_id))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"reactions\" does not exist"),
				 errhint("Run CREATE EXTENSION pg_reactions in this database.")));
	relations->namespace_id = namespace_id;
	relations->entity_type = catalog_own_relation(namespace_id, "entity_type");
	relations->kind = catalog_own_relation(namespace_id, "kind");
	relations->version_sequence = catalog_own_relation(namespace_id, "_version");
}

static void
find_other_relations(CatalogRelations *relations)
{
	Oid			namespace_id = relations->namespace_id;

	relations->generation = catalog_own_relation(namespace_id, "_generation");
	relations->mirror = catalog_own_relation(namespace_id, "_mirror");
	relations->batch = catalog_own_relation(namespace_id, "_batch");
	relations->batch_key = catalog_own_relation(namespace_id, "_batch_pkey");
	relations->skipped = catalog_own_relation(namespace_id, "_skipped");
	relations->refused = catalog_own_relation(namespace_id, "write_back_refused");
	relations->refused_key = catalog_own_relation(namespace_id, "write_back_refused_pkey");
	for (int i = 0; i < OUTBOX_TABLES; i++)
	{
		relations->outbox[i] = catalog_own_relation(namespace_id, psprintf("_outbox_%d", i));
		relations->outbox_key[i] = catalog_own_relation(namespace_id, psprintf("_outbox_%d_key", i));
	}
}

static int32
interval_seconds(Datum value)
{
	Interval   *interval = DatumGetIntervalP(value);
	double		seconds = interval->time / (double) USECS_PER_SEC +
		((double) interval->month * DAYS_PER_MONTH + interval->day) * SECS_PER_DAY;

	return (int32) Max(1.0, Min(seconds, (double) PG_INT32_MAX));
}

static char *
name_or_null(TupleTableSlot *slot, AttrNumber attribute)
{
	bool		is_null;
	Datum		value = slot_getattr(slot, attribute, &is_null);

	return is_null ? NULL : pstrdup(NameStr(*DatumGetName(value)));
}

static char *
text_at(TupleTableSlot *slot, AttrNumber attribute)
{
	bool		is_null;
	Datum		value = slot_getattr(slot, attribute, &is_null);

	return is_null ? pstrdup("") : TextDatumGetCString(value);
}

static char *
jsonb_text_at(TupleTableSlot *slot, AttrNumber attribute)
{
	bool		is_null;
	Datum		value = slot_getattr(slot, attribute, &is_null);
	Jsonb	   *document;

	if (is_null)
		return pstrdup("{}");
	document = DatumGetJsonbP(value);
	return JsonbToCString(NULL, &document->root, VARSIZE(document));
}

static Datum
value_at(TupleTableSlot *slot, AttrNumber attribute)
{
	bool		is_null;
	Datum		value = slot_getattr(slot, attribute, &is_null);

	return is_null ? (Datum) 0 : value;
}

static ReactionPhase
phase_at(TupleTableSlot *slot)
{
	char	   *name = text_at(slot, ATTR_PHASE);

	for (int i = 0; i < lengthof(phase_names); i++)
		if (strcmp(phase_names[i], name) == 0)
			return i;
	return PHASE_DETACHED;
}

static ReactionType *
read_type(TupleTableSlot *slot, MemoryContext context)
{
	static uint64 types_read = 0;
	ReactionType *type = palloc0(sizeof(ReactionType));

	type->context = context;
	type->type_id = DatumGetInt16(value_at(slot, ATTR_TYPE_ID));
	type->name = text_at(slot, ATTR_ENTITY_TYPE);
	type->exclusive = strcmp(text_at(slot, ATTR_MODE), "exclusive") == 0;
	type->phase = phase_at(slot);
	type->legacy_table = DatumGetObjectId(value_at(slot, ATTR_LEGACY_TABLE));
	type->user_column = name_or_null(slot, ATTR_USER_COLUMN);
	type->entity_column = name_or_null(slot, ATTR_ENTITY_COLUMN);
	type->kind_column = name_or_null(slot, ATTR_KIND_COLUMN);
	type->created_column = name_or_null(slot, ATTR_CREATED_COLUMN);
	type->extra_values = jsonb_text_at(slot, ATTR_EXTRA_VALUES);
	type->kind_map = jsonb_text_at(slot, ATTR_KIND_MAP);
	type->skip_unknown = strcmp(text_at(slot, ATTR_UNKNOWN_KINDS), "skip") == 0;
	type->backfilled = DatumGetBool(value_at(slot, ATTR_BACKFILLED));
	type->redirects_inserts = strcmp(text_at(slot, ATTR_DIRECT_INSERTS), "redirect") == 0;

	type->boundary.serial = ++types_read;
	type->boundary.name = type->name;
	type->boundary.user_map_template = text_at(slot, ATTR_USER_MAP_KEY);
	type->boundary.entity_template = text_at(slot, ATTR_ENTITY_KEY);
	type->boundary.shard_count = DatumGetInt32(value_at(slot, ATTR_SHARD_COUNT));
	type->boundary.user_map_limit = DatumGetInt32(value_at(slot, ATTR_USER_MAP_LIMIT));
	type->boundary.user_map_ttl_s = interval_seconds(value_at(slot, ATTR_USER_MAP_TTL));
	type->boundary.user_map_max_age_s = interval_seconds(value_at(slot, ATTR_USER_MAP_MAX_AGE));
	type->boundary.epoch = DatumGetInt64(value_at(slot, ATTR_EPOCH));
	type->viral_threshold = DatumGetInt32(value_at(slot, ATTR_VIRAL_THRESHOLD));
	return type;
}

/* Calls `row` for every row of the relation that the snapshot sees. */
static void
scan_relation(Oid relation_id, Snapshot snapshot, void (*row) (TupleTableSlot *slot, Catalog *into), Catalog *into)
{
	Relation	relation = table_open(relation_id, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		row(slot, into);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(relation, AccessShareLock);
}

static void
add_type(TupleTableSlot *slot, Catalog *into)
{
	into->types = lappend(into->types, read_type(slot, into->context));
}

static void
add_kind(TupleTableSlot *slot, Catalog *into)
{
	int16		type_id = DatumGetInt16(value_at(slot, 1));
	ListCell   *cell;

	foreach(cell, into->types)
	{
		ReactionType *type = lfirst(cell);
		size_t		count = type->boundary.kind_count;
		rx_kind    *kinds = (rx_kind *) type->boundary.kinds;
		size_t		place;
		int32		flag;

		if (type->type_id != type_id)
			continue;
		kinds = kinds == NULL ? palloc(32 * sizeof(rx_kind)) : kinds;
		if (count >= 31)
			return;
		flag = DatumGetInt32(value_at(slot, 3));
		/* In the order of their flags. */
		for (place = count; place > 0 && kinds[place - 1].flag > flag; place--)
			kinds[place] = kinds[place - 1];
		kinds[place].name = text_at(slot, 2);
		kinds[place].flag = flag;
		type->all_flags |= flag;
		type->boundary.kinds = kinds;
		type->boundary.kind_count = count + 1;
	}
}

static void
set_current_outbox(TupleTableSlot *slot, Catalog *into)
{
	into->current_outbox = DatumGetInt16(value_at(slot, 2));
}

Catalog *
catalog_read(void)
{
	MemoryContext context = AllocSetContextCreate(CacheMemoryContext, "pg_reactions catalog", ALLOCSET_SMALL_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	Catalog    *fresh = palloc0(sizeof(Catalog));
	Snapshot	snapshot;

	/* A child of the current context until it is complete: an error must not leak it. */
	MemoryContextSetParent(context, before);
	fresh->context = context;
	find_relations(&fresh->relations);

	snapshot = RegisterSnapshot(catalog_newest_snapshot());
	scan_relation(fresh->relations.entity_type, snapshot, add_type, fresh);
	scan_relation(fresh->relations.kind, snapshot, add_kind, fresh);
	UnregisterSnapshot(snapshot);

	MemoryContextSwitchTo(before);
	MemoryContextSetParent(context, CacheMemoryContext);
	return fresh;
}

static bool
has_blocks(Oid relation_id)
{
	Relation	relation = table_open(relation_id, AccessShareLock);
	bool		result = RelationGetNumberOfBlocks(relation) > 0;

	table_close(relation, AccessShareLock);
	return result;
}

void
catalog_read_rest(Catalog *into)
{
	Snapshot	snapshot;

	find_other_relations(&into->relations);
	snapshot = RegisterSnapshot(catalog_newest_snapshot());
	scan_relation(into->relations.mirror, snapshot, set_current_outbox, into);
	UnregisterSnapshot(snapshot);
	into->has_refused = has_blocks(into->relations.refused);
	into->has_rest = true;
}

ReactionPhase
catalog_read_phase(Oid entity_types, int16 type_id, Snapshot snapshot)
{
	Relation	relation = table_open(entity_types, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL);
	ReactionPhase phase = PHASE_DETACHED;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		if (DatumGetInt16(value_at(slot, ATTR_TYPE_ID)) == type_id)
			phase = phase_at(slot);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(relation, AccessShareLock);
	return phase;
}
