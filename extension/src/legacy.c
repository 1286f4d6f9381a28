/*
 * The attached table.
 *
 * Statements run as the table's owner, like those of foreign keys: whoever may call the function need not have a privilege on the
 * table. Plans are kept per type and freed with it.
 */
#include "legacy.h"

#include "access/htup_details.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

typedef struct LegacyPlans
{
	Oid			kind_type;
	SPIPlanPtr	read_user;
	SPIPlanPtr	read_entities;
	SPIPlanPtr	read_page;
	SPIPlanPtr	insert;
	SPIPlanPtr	delete;
	MemoryContextCallback reset;
} LegacyPlans;

bool
legacy_is_truth(const ReactionType *type)
{
	return type->phase == PHASE_ATTACHED || type->phase == PHASE_DUAL_READ || type->phase == PHASE_SWITCH_READS;
}

bool
legacy_is_written(const ReactionType *type)
{
	return legacy_is_truth(type);
}

/* ---- kinds --------------------------------------------------------------------------------------------------------------- */

/* What the type's kind_map says of a label: the kind's name, "" for null (skip), or NULL if it is not mentioned. */
static char *
mapped_kind(ReactionType *type, const char *label)
{
	Jsonb	   *map;
	JsonbValue	key;
	JsonbValue *value;

	if (strcmp(type->kind_map, "{}") == 0)
		return NULL;
	map = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(type->kind_map)));
	key.type = jbvString;
	key.val.string.val = unconstify(char *, label);
	key.val.string.len = strlen(label);
	value = findJsonbValueFromContainer(&map->root, JB_FOBJECT, &key);
	if (value == NULL)
		return NULL;
	return value->type == jbvString ? pnstrdup(value->val.string.val, value->val.string.len) : "";
}

static int32
flag_of_label(ReactionType *type, const char *label)
{
	char	   *mapped = mapped_kind(type, label);
	const char *kind = mapped != NULL ? mapped : label;

	if (mapped != NULL && mapped[0] == '\0')
		return -1;
	for (size_t i = 0; i < type->boundary.kind_count; i++)
		if (strcmp(type->boundary.kinds[i].name, kind) == 0)
			return type->boundary.kinds[i].flag;
	if (type->skip_unknown)
		return -1;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is not a kind of entity type \"%s\"", label, type->name),
			 errdetail("Table \"%s\" is attached with unknown_kinds => 'error'.", get_rel_name(type->legacy_table)),
			 errhint("Add the kind with reactions.add_kind, or attach the table with a kind_map or unknown_kinds => 'skip'.")));
}

static char *
label_text(Oid column_type, Datum value)
{
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(column_type, &output, &is_varlena);
	return OidOutputFunctionCall(output, value);
}

int32
legacy_flag(ReactionType *type, Oid column_type, Datum value)
{
	bool		is_enum = get_typtype(column_type) == TYPTYPE_ENUM;
	char	   *text = NULL;
	KindLabel  *entry;
	MemoryContext before;
	int32		flag;
	ListCell   *cell;

	if (!is_enum)
		text = label_text(column_type, value);
	foreach(cell, type->labels)
	{
		entry = lfirst(cell);
		if (is_enum ? entry->enum_value == DatumGetObjectId(value) : strcmp(entry->text, text) == 0)
			return entry->flag;
	}
	if (is_enum)
		text = label_text(column_type, value);
	flag = flag_of_label(type, text);

	/* A column of free text must not fill the memory. */
	if (list_length(type->labels) >= 128)
		return flag;
	before = MemoryContextSwitchTo(type->context);
	entry = palloc(sizeof(KindLabel));
	entry->enum_value = is_enum ? DatumGetObjectId(value) : InvalidOid;
	entry->text = pstrdup(text);
	entry->flag = flag;
	type->labels = lappend(type->labels, entry);
	MemoryContextSwitchTo(before);
	return flag;
}

/* The label under which the table keeps a kind: one that kind_map leads to it, else the kind's own name. */
static char *
label_of_flag(ReactionType *type, int32 flag)
{
	const char *kind = NULL;
	Jsonb	   *map = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(type->kind_map)));
	JsonbIterator *iterator = JsonbIteratorInit(&map->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *label = NULL;

	for (size_t i = 0; i < type->boundary.kind_count; i++)
		if (type->boundary.kinds[i].flag == flag)
			kind = type->boundary.kinds[i].name;
	if (kind == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("entity type \"%s\" has no kind with flag %d", type->name, flag)));
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			label = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && value.type == jbvString && strlen(kind) == (size_t) value.val.string.len &&
				 strncmp(kind, value.val.string.val, value.val.string.len) == 0)
			return label;
	}
	return pstrdup(kind);
}

/* ---- running statements as the table's owner ----------------------------------------------------------------------------- */

static void
free_plans(void *argument)
{
	LegacyPlans *plans = argument;

	if (plans->read_user != NULL)
		SPI_freeplan(plans->read_user);
	if (plans->read_entities != NULL)
		SPI_freeplan(plans->read_entities);
	if (plans->read_page != NULL)
		SPI_freeplan(plans->read_page);
	if (plans->insert != NULL)
		SPI_freeplan(plans->insert);
	if (plans->delete != NULL)
		SPI_freeplan(plans->delete);
}

static LegacyPlans *
plans_of(ReactionType *type)
{
	AttrNumber	kind_attribute;
	LegacyPlans *plans;

	if (type->plans != NULL)
		return type->plans;
	if (!OidIsValid(type->legacy_table) || get_rel_name(type->legacy_table) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of entity type \"%s\" does not exist", type->name)));
	kind_attribute = get_attnum(type->legacy_table, type->kind_column);
	if (kind_attribute == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table \"%s\" does not exist", type->kind_column,
						get_rel_name(type->legacy_table))));
	plans = MemoryContextAllocZero(type->context, sizeof(LegacyPlans));
	plans->kind_type = get_atttype(type->legacy_table, kind_attribute);
	plans->reset.func = free_plans;
	plans->reset.arg = plans;
	MemoryContextRegisterResetCallback(type->context, &plans->reset);
	type->plans = plans;
	return plans;
}

static const char *
table_name(ReactionType *type)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(type->legacy_table)),
									  get_rel_name(type->legacy_table));
}

typedef struct SavedUser
{
	Oid			user;
	int			context;
} SavedUser;

/* An error restores user and context with the (sub)transaction. */
static SavedUser
become_owner(ReactionType *type)
{
	SavedUser	saved;
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(type->legacy_table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of entity type \"%s\" does not exist", type->name)));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	GetUserIdAndSecContext(&saved.user, &saved.context);
	SetUserIdAndSecContext(owner, saved.context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	return saved;
}

/* Also done as the owner: whoever looks up names needs USAGE of the table's schema. */
static SPIPlanPtr
prepare(ReactionType *type, const char *statement, int argument_count, Oid *argument_types)
{
	SavedUser	saved = become_owner(type);
	SPIPlanPtr	plan = SPI_prepare(statement, argument_count, argument_types);

	SetUserIdAndSecContext(saved.user, saved.context);
	if (plan == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not prepare a statement on the attached table: %s", SPI_result_code_string(SPI_result))));
	SPI_keepplan(plan);
	return plan;
}

/* Runs the plan as the table's owner; with a snapshot it only reads, in exactly that snapshot. */
static void
execute(ReactionType *type, SPIPlanPtr plan, Datum *arguments, Snapshot snapshot, int expected)
{
	SavedUser	saved = become_owner(type);
	int			result;

	result = SPI_execute_snapshot(plan, arguments, NULL, snapshot, InvalidSnapshot, snapshot != InvalidSnapshot, true, 0);
	SetUserIdAndSecContext(saved.user, saved.context);
	if (result != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("statement on the attached table ended with %s", SPI_result_code_string(result))));
}

/* ---- reading ------------------------------------------------------------------------------------------------------------- */

/*
 * Folds rows (entity, kind), sorted by entity, of the last statement into flags per entity; memory of `context`. Skipped kinds do
 * not count; a limit of 0 is none.
 */
static UserFlags
fold_rows(ReactionType *type, MemoryContext context, int32 mask, int limit)
{
	UserFlags	result = {NULL, NULL, 0, false};
	uint64		rows = SPI_processed;
	TupleDesc	descriptor = SPI_tuptable->tupdesc;
	Oid			kind_type = TupleDescAttr(descriptor, 1)->atttypid;

	result.entity_ids = MemoryContextAllocHuge(context, Max(rows, 1) * sizeof(int64));
	result.flags = MemoryContextAllocHuge(context, Max(rows, 1) * sizeof(int32));
	for (uint64 i = 0; i < rows; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bool		is_null;
		int64		entity_id = DatumGetInt64(SPI_getbinval(tuple, descriptor, 1, &is_null));
		Datum		kind = SPI_getbinval(tuple, descriptor, 2, &is_null);
		int32		flag = is_null ? -1 : legacy_flag(type, kind_type, kind);

		if (flag < 0)
			continue;
		if (result.count == 0 || result.entity_ids[result.count - 1] != entity_id)
		{
			if (result.count > 0 && (result.flags[result.count - 1] & mask) == 0)
				result.count--;
			if (limit > 0 && result.count == (size_t) limit)
			{
				result.overflow = true;
				return result;
			}
			result.entity_ids[result.count] = entity_id;
			result.flags[result.count] = 0;
			result.count++;
		}
		result.flags[result.count - 1] |= flag;
	}
	if (result.count > 0 && (result.flags[result.count - 1] & mask) == 0)
		result.count--;
	return result;
}

UserFlags
legacy_read_user(ReactionType *type, int64 user_id, int limit, Snapshot snapshot)
{
	LegacyPlans *plans = plans_of(type);
	MemoryContext caller = CurrentMemoryContext;
	Datum		arguments[2];
	UserFlags	result;

	SPI_connect();
	if (plans->read_user == NULL)
	{
		Oid			types[2] = {INT8OID, INT8OID};

		/* Whole entities of the first limit + 1 of the user's. */
		plans->read_user =
			prepare(type, psprintf("SELECT %2$s::pg_catalog.int8, %3$s FROM ONLY %1$s WHERE %4$s OPERATOR(pg_catalog.=) $1 "
							 "ORDER BY 1 LIMIT $2",
							 table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
							 quote_identifier(type->user_column)),
					2, types);
	}
	arguments[0] = Int64GetDatum(user_id);
	/* Rows enough for limit + 1 entities, whatever kinds they hold. */
	arguments[1] = Int64GetDatum(((int64) limit + 1) * (type->exclusive ? 1 : Max((int64) type->boundary.kind_count, 1)));
	execute(type, plans->read_user, arguments, snapshot, SPI_OK_SELECT);
	result = fold_rows(type, caller, -1, limit);
	/* Cut off by LIMIT: the last entities may be incomplete, and skipped kinds may have used up the rows. */
	if (SPI_processed == (uint64) DatumGetInt64(arguments[1]))
		result.overflow = true;
	SPI_finish();
	return result;
}

UserFlags
legacy_read_entities(ReactionType *type, int64 user_id, const int64 *entity_ids, size_t count, Snapshot snapshot)
{
	LegacyPlans *plans = plans_of(type);
	MemoryContext caller = CurrentMemoryContext;
	Datum	   *elements = palloc_array(Datum, count);
	Datum		arguments[2];
	UserFlags	result;

	for (size_t i = 0; i < count; i++)
		elements[i] = Int64GetDatum(entity_ids[i]);
	arguments[0] = Int64GetDatum(user_id);
	arguments[1] = PointerGetDatum(construct_array(elements, (int) count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	SPI_connect();
	if (plans->read_entities == NULL)
	{
		Oid			types[2] = {INT8OID, INT8ARRAYOID};

		plans->read_entities =
			prepare(type, psprintf("SELECT %2$s::pg_catalog.int8, %3$s FROM ONLY %1$s WHERE %4$s OPERATOR(pg_catalog.=) $1 "
							 "AND %2$s OPERATOR(pg_catalog.=) ANY ($2) ORDER BY 1",
							 table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
							 quote_identifier(type->user_column)),
					2, types);
	}
	execute(type, plans->read_entities, arguments, snapshot, SPI_OK_SELECT);
	result = fold_rows(type, caller, -1, 0);
	SPI_finish();
	return result;
}

UserFlags
legacy_read_page(ReactionType *type, int64 user_id, int32 mask, int64 after, int limit, Snapshot snapshot)
{
	LegacyPlans *plans = plans_of(type);
	MemoryContext caller = CurrentMemoryContext;
	UserFlags	result = {NULL, NULL, 0, false};

	SPI_connect();
	if (plans->read_page == NULL)
	{
		Oid			types[3] = {INT8OID, INT8OID, INT8OID};

		plans->read_page =
			prepare(type, psprintf("SELECT t.e, l.%3$s FROM (SELECT DISTINCT %2$s::pg_catalog.int8 AS e FROM ONLY %1$s "
							 "WHERE %4$s OPERATOR(pg_catalog.=) $1 AND %2$s OPERATOR(pg_catalog.>) $2 ORDER BY 1 LIMIT $3) t "
							 "JOIN ONLY %1$s l ON l.%4$s OPERATOR(pg_catalog.=) $1 AND l.%2$s OPERATOR(pg_catalog.=) t.e "
							 "ORDER BY 1",
							 table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
							 quote_identifier(type->user_column)),
					3, types);
	}
	result.entity_ids = palloc_array(int64, limit);
	result.flags = palloc_array(int32, limit);

	/* Entities whose kinds are all outside the mask leave a page short, so it is read on until it is full. */
	for (;;)
	{
		Datum		arguments[3] = {Int64GetDatum(user_id), Int64GetDatum(after), Int64GetDatum((int64) limit)};
		MemoryContext before;
		UserFlags	part;
		uint64		rows;
		bool		is_null;

		CHECK_FOR_INTERRUPTS();
		execute(type, plans->read_page, arguments, snapshot, SPI_OK_SELECT);
		rows = SPI_processed;
		if (rows == 0)
			break;
		before = MemoryContextSwitchTo(caller);
		part = fold_rows(type, caller, mask, 0);
		for (size_t i = 0; i < part.count && result.count < (size_t) limit; i++)
		{
			result.entity_ids[result.count] = part.entity_ids[i];
			result.flags[result.count++] = part.flags[i];
		}
		MemoryContextSwitchTo(before);
		after = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[rows - 1], SPI_tuptable->tupdesc, 1, &is_null));
		SPI_freetuptable(SPI_tuptable);
		if (result.count == (size_t) limit)
			break;
	}
	SPI_finish();
	return result;
}

/* ---- writing ------------------------------------------------------------------------------------------------------------- */

/*
 * ", column" and ", value" for every column of extra_values. The cast through text keeps values such as 'now' from being frozen in
 * the plan.
 */
static void
append_extra(ReactionType *type, StringInfo columns, StringInfo values)
{
	Jsonb	   *extra = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(type->extra_values)));
	JsonbIterator *iterator = JsonbIteratorInit(&extra->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *column = NULL;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			column = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
		{
			char	   *text = value.type == jbvString ? pnstrdup(value.val.string.val, value.val.string.len)
				: value.type == jbvNumeric ? DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)))
				: value.type == jbvBool ? (value.val.boolean ? "true" : "false") : NULL;

			appendStringInfo(columns, ", %s", quote_identifier(column));
			appendStringInfo(values, ", %s::pg_catalog.text::%s", text == NULL ? "NULL" : quote_literal_cstr(text),
							 format_type_extended(get_atttype(type->legacy_table, get_attnum(type->legacy_table, column)),
												  -1, FORMAT_TYPE_FORCE_QUALIFY));
		}
	}
}

static SPIPlanPtr
insert_plan(ReactionType *type, LegacyPlans *plans)
{
	Oid			types[3] = {INT8OID, INT8OID, TEXTOID};
	StringInfoData columns;
	StringInfoData values;
	char	   *kind_type = format_type_extended(plans->kind_type, -1, FORMAT_TYPE_FORCE_QUALIFY);
	char	   *on_conflict = "DO NOTHING";

	if (plans->insert != NULL)
		return plans->insert;
	initStringInfo(&columns);
	initStringInfo(&values);
	appendStringInfo(&columns, "%s, %s, %s", quote_identifier(type->user_column), quote_identifier(type->entity_column),
					 quote_identifier(type->kind_column));
	appendStringInfo(&values, "$1, $2, $3::%s", kind_type);
	append_extra(type, &columns, &values);
	if (type->exclusive)
		on_conflict = psprintf("(%1$s, %2$s) DO UPDATE SET %3$s = EXCLUDED.%3$s "
							   "WHERE r.%3$s IS DISTINCT FROM EXCLUDED.%3$s",
							   quote_identifier(type->user_column), quote_identifier(type->entity_column),
							   quote_identifier(type->kind_column));
	plans->insert = prepare(type, psprintf("INSERT INTO %s AS r (%s) VALUES (%s) ON CONFLICT %s",
									 table_name(type), columns.data, values.data, on_conflict),
							3, types);
	return plans->insert;
}

static SPIPlanPtr
delete_plan(ReactionType *type, LegacyPlans *plans)
{
	Oid			types[3] = {INT8OID, INT8OID, TEXTOID};

	if (plans->delete == NULL)
		plans->delete =
			prepare(type, psprintf("DELETE FROM ONLY %s WHERE %s OPERATOR(pg_catalog.=) $1 AND %s OPERATOR(pg_catalog.=) $2 "
							 "AND %s OPERATOR(pg_catalog.=) $3::%s",
							 table_name(type), quote_identifier(type->user_column), quote_identifier(type->entity_column),
							 quote_identifier(type->kind_column),
							 format_type_extended(plans->kind_type, -1, FORMAT_TYPE_FORCE_QUALIFY)),
					3, types);
	return plans->delete;
}

void
legacy_change(ReactionType *type, int64 user_id, int64 entity_id, int32 set_mask, int32 clear_mask)
{
	LegacyPlans *plans = plans_of(type);
	Datum		arguments[3] = {Int64GetDatum(user_id), Int64GetDatum(entity_id), (Datum) 0};

	SPI_connect();
	for (size_t i = 0; i < type->boundary.kind_count; i++)
	{
		int32		flag = type->boundary.kinds[i].flag;

		/* An exclusive row is replaced by the insert, not removed first. */
		if ((clear_mask & flag) == 0 || (type->exclusive && set_mask != 0))
			continue;
		arguments[2] = CStringGetTextDatum(label_of_flag(type, flag));
		execute(type, delete_plan(type, plans), arguments, InvalidSnapshot, SPI_OK_DELETE);
	}
	for (size_t i = 0; i < type->boundary.kind_count; i++)
	{
		int32		flag = type->boundary.kinds[i].flag;

		if ((set_mask & flag) == 0)
			continue;
		arguments[2] = CStringGetTextDatum(label_of_flag(type, flag));
		execute(type, insert_plan(type, plans), arguments, InvalidSnapshot, SPI_OK_INSERT);
	}
	SPI_finish();
}
