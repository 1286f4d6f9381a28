/*
 * Entity types and kinds, cached per backend.
 *
 * The cache is dropped by relation-cache invalidation of reactions.entity_type, which triggers on the configuration tables send (see
 * configuration_changed). It is read with the newest snapshot, because a REPEATABLE READ transaction would otherwise cache the past
 * for ever, and kept only if no invalidation came while it was read.
 *
 * The fence is RowExclusiveLock on reactions.entity_type. It is taken every time: a remembered lock may have gone with a savepoint.
 * A relation lock is fast-path and processes invalidations; an advisory lock does neither.
 *
 * A type that was handed out stays in memory until the transaction ends, whatever is invalidated meanwhile.
 */
#include "catalog.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
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

static Catalog *catalog = NULL;

/* Catalogs replaced in this transaction: types of them may still be in use. */
static List *replaced = NIL;

static uint64 invalidations = 0;
static uint64 catalog_read_at = 0;	/* `invalidations` when `catalog` was read */

/*
 * In parallel mode there is no newest snapshot, only the query's, which may be older than an invalidation that was heard of. What was
 * read by it is right for this snapshot alone: for each row of the query, and not for the next one.
 */
static struct
{
	bool		is_set;			/* false: `catalog` was read by the newest snapshot */
	TransactionId xmin;
	TransactionId xmax;
	uint32		running;
	int32		running_below;	/* subtransactions, and on a standby everything that runs */
	CommandId	command;
}			read_by;

static const char *const phase_names[] = {
	"native", "attached", "dual_read", "switch_reads", "stop_writes", "archived", "detached"
};

/* Can be called at any time; remembers only. */
static void
relation_invalidated(Datum argument, Oid relation)
{
	if (relation == InvalidOid || catalog == NULL || relation == catalog->relations.entity_type)
		invalidations++;
}

static void
transaction_ended(XactEvent event, void *argument)
{
	ListCell   *cell;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	foreach(cell, replaced)
		MemoryContextDelete(((Catalog *) lfirst(cell))->context);
	list_free(replaced);
	replaced = NIL;
}

void
catalog_init(void)
{
	CacheRegisterRelcacheCallback(relation_invalidated, (Datum) 0);
	RegisterXactCallback(transaction_ended, NULL);
}

Snapshot
catalog_newest_snapshot(void)
{
	return IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot();
}

static Oid
own_relation(Oid namespace_id, const char *name)
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
	relations->entity_type = own_relation(namespace_id, "entity_type");
	relations->kind = own_relation(namespace_id, "kind");
	relations->version_sequence = own_relation(namespace_id, "_version");
}

static void
find_other_relations(CatalogRelations *relations)
{
	Oid			namespace_id = relations->namespace_id;

	relations->generation = own_relation(namespace_id, "_generation");
	relations->mirror = own_relation(namespace_id, "_mirror");
	relations->batch = own_relation(namespace_id, "_batch");
	relations->batch_key = own_relation(namespace_id, "_batch_pkey");
	relations->skipped = own_relation(namespace_id, "_skipped");
	relations->refused = own_relation(namespace_id, "write_back_refused");
	relations->refused_key = own_relation(namespace_id, "write_back_refused_pkey");
	for (int i = 0; i < OUTBOX_TABLES; i++)
	{
		relations->outbox[i] = own_relation(namespace_id, psprintf("_outbox_%d", i));
		relations->outbox_key[i] = own_relation(namespace_id, psprintf("_outbox_%d_key", i));
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

static Catalog *
read_catalog(void)
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
is_read_by_this(void)
{
	Snapshot	snapshot;

	if (!IsInParallelMode() || !ActiveSnapshotSet())
		return false;
	snapshot = GetActiveSnapshot();
	return read_by.xmin == snapshot->xmin && read_by.xmax == snapshot->xmax && read_by.running == snapshot->xcnt &&
		read_by.running_below == snapshot->subxcnt && read_by.command == snapshot->curcid;
}

static void
note_snapshot(void)
{
	Snapshot	snapshot;

	if (!(read_by.is_set = IsInParallelMode()))
		return;
	snapshot = GetActiveSnapshot();
	read_by.xmin = snapshot->xmin;
	read_by.xmax = snapshot->xmax;
	read_by.running = snapshot->xcnt;
	read_by.running_below = snapshot->subxcnt;
	read_by.command = snapshot->curcid;
}

static bool
is_fresh(void)
{
	return catalog != NULL && catalog_read_at == invalidations && (!read_by.is_set || is_read_by_this());
}

static Catalog *
current_catalog(void)
{
	AcceptInvalidationMessages();
	while (!is_fresh())
	{
		uint64		started_at = invalidations;
		Catalog    *fresh = read_catalog();
		MemoryContext before = MemoryContextSwitchTo(TopMemoryContext);

		if (catalog != NULL)
			replaced = lappend(replaced, catalog);
		MemoryContextSwitchTo(before);
		catalog = fresh;
		catalog_read_at = started_at;
		note_snapshot();
		if (read_by.is_set)
			break;
	}
	return catalog;
}

static bool
has_blocks(Oid relation_id)
{
	Relation	relation = table_open(relation_id, AccessShareLock);
	bool		result = RelationGetNumberOfBlocks(relation) > 0;

	table_close(relation, AccessShareLock);
	return result;
}

/* The catalog with all of it. What is read is complete before it is called so, and again if it has become stale meanwhile. */
static Catalog *
whole_catalog(void)
{
	Catalog    *current;

	while (!(current = current_catalog())->has_rest)
	{
		Snapshot	snapshot;

		find_other_relations(&current->relations);
		snapshot = RegisterSnapshot(catalog_newest_snapshot());
		scan_relation(current->relations.mirror, snapshot, set_current_outbox, current);
		UnregisterSnapshot(snapshot);
		current->has_refused = has_blocks(current->relations.refused);
		current->has_rest = true;
		if (IsInParallelMode())
			break;
	}
	return current;
}

const CatalogRelations *
catalog_relations(void)
{
	return &whole_catalog()->relations;
}

int
catalog_current_outbox(void)
{
	return whole_catalog()->current_outbox;
}

bool
catalog_has_refused(void)
{
	return whole_catalog()->has_refused;
}

ReactionType *
catalog_type_of_argument(text *name)
{
	ListCell   *cell;
	const char *bytes = VARDATA_ANY(name);
	size_t		length = VARSIZE_ANY_EXHDR(name);

	foreach(cell, current_catalog()->types)
	{
		ReactionType *type = lfirst(cell);

		if (strlen(type->name) != length || memcmp(type->name, bytes, length) != 0)
			continue;
		if (type->phase == PHASE_DETACHED)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("entity type \"%s\" is detached from its table", type->name),
					 errhint("Attach it again with reactions.attach.")));
		return type;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("entity type \"%s\" does not exist", text_to_cstring(name)),
			 errhint("Make it with reactions.add_entity_type or reactions.attach; reactions.entity_type lists what there is.")));
}

ReactionType *
catalog_type_of_table(Oid table)
{
	ListCell   *cell;

	foreach(cell, current_catalog()->types)
	{
		ReactionType *type = lfirst(cell);

		if (type->legacy_table == table)
			return type;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" has the triggers of pg_reactions but is not attached to an entity type", get_rel_name(table)),
			 errhint("Run reactions.attach again, or reactions.detach to drop the triggers.")));
}

static ReactionType *
type_of_id(const Catalog *in, int16 type_id)
{
	ListCell   *cell;

	foreach(cell, in->types)
	{
		ReactionType *type = lfirst(cell);

		if (type->type_id == type_id)
			return type;
	}
	return NULL;
}

ReactionType *
catalog_type_of_id(int16 type_id)
{
	return type_of_id(current_catalog(), type_id);
}

ReactionType *
catalog_cached_type(int16 type_id)
{
	return is_fresh() ? type_of_id(catalog, type_id) : NULL;
}

int32
catalog_flag(ReactionType *type, const char *kind)
{
	for (size_t i = 0; i < type->boundary.kind_count; i++)
		if (strcmp(type->boundary.kinds[i].name, kind) == 0)
			return type->boundary.kinds[i].flag;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("entity type \"%s\" has no kind \"%s\"", type->name, kind),
			 errhint("Kinds are case-sensitive; reactions.kind lists them, reactions.add_kind adds one.")));
}

static uint64
identifier_of(const CatalogRelations *relations)
{
	struct
	{
		uint64		cluster;
		Oid			database;
		Oid			sequence;
	}			identity = {GetSystemIdentifier(), MyDatabaseId, relations->version_sequence};

	return hash_bytes_extended((const unsigned char *) &identity, sizeof(identity), 0);
}

uint64
catalog_system_identifier(void)
{
	return identifier_of(&current_catalog()->relations);
}

static void
set_cluster(rx_type *boundary, const CatalogRelations *relations)
{
	TimeLineID	timeline;

	if (RecoveryInProgress())
		(void) GetXLogReplayRecPtr(&timeline);
	else
		timeline = GetWALInsertionTimeLine();
	boundary->system_identifier = identifier_of(relations);
	boundary->timeline = timeline;
}

void
catalog_cluster(rx_type *boundary)
{
	set_cluster(boundary, &current_catalog()->relations);
}

const rx_type *
catalog_boundary(ReactionType *type)
{
	/* As cached: called before commit, where nothing is looked up. */
	set_cluster(&type->boundary, &catalog->relations);
	return &type->boundary;
}

void
catalog_fence(void)
{
	LockRelationOid(current_catalog()->relations.entity_type, RowExclusiveLock);
}

ReactionPhase
catalog_phase_in(const ReactionType *type, Snapshot snapshot)
{
	Relation	relation = table_open(current_catalog()->relations.entity_type, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL);
	ReactionPhase phase = PHASE_DETACHED;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		if (DatumGetInt16(value_at(slot, ATTR_TYPE_ID)) == type->type_id)
			phase = phase_at(slot);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(relation, AccessShareLock);
	return phase;
}

ReactionPhase
catalog_phase_seen(const ReactionType *type)
{
	return IsolationUsesXactSnapshot() ? catalog_phase_in(type, GetTransactionSnapshot()) : type->phase;
}

void
catalog_refuse_other_phase(const ReactionType *type)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("entity type \"%s\" changed its phase after this statement, or its transaction, began", type->name),
			 errhint("Retry the transaction.")));
}

PG_FUNCTION_INFO_V1(reactions_configuration_changed);

/* Trigger on the configuration tables: every backend drops its cache when this transaction commits, which it does durably. */
Datum
reactions_configuration_changed(PG_FUNCTION_ARGS)
{
	Oid			namespace_id = get_namespace_oid("reactions", false);

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called as a trigger", "_configuration_changed")));
	CacheInvalidateRelcacheByRelid(own_relation(namespace_id, "entity_type"));

	/* An epoch that a crash took back would come again later, and with it the maps that were made under it. */
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	return PointerGetDatum(NULL);
}
