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

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/namespace.h"
#include "catalog_rows.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

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
		Catalog    *fresh = catalog_read();
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

/* The catalog with all of it. What is read is complete before it is called so, and again if it has become stale meanwhile. */
static Catalog *
whole_catalog(void)
{
	Catalog    *current;

	while (!(current = current_catalog())->has_rest)
	{
		catalog_read_rest(current);
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
	return catalog_read_phase(current_catalog()->relations.entity_type, type->type_id, snapshot);
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
	CacheInvalidateRelcacheByRelid(catalog_own_relation(namespace_id, "entity_type"));

	/* An epoch that a crash took back would come again later, and with it the maps that were made under it. */
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	return PointerGetDatum(NULL);
}
