/*
 * Statements on the attached table. They run as its owner, like those of foreign keys: whoever may call the function need not have a
 * privilege on the table. Plans are kept per type and freed with it.
 */
#include "legacy_statement.h"

#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

static void
free_plans(void *argument)
{
	LegacyPlans *plans = argument;

	for (int i = 0; i < LEGACY_STATEMENTS; i++)
		if (plans->of[i] != NULL)
			SPI_freeplan(plans->of[i]);
}

LegacyPlans *
legacy_plans(ReactionType *type)
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

const char *
legacy_table_name(ReactionType *type)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(type->legacy_table)),
									  get_rel_name(type->legacy_table));
}

typedef struct SavedUser
{
	Oid			user;
	int			context;
} SavedUser;

/*
 * An error restores user and context with the (sub)transaction. SECURITY_NOFORCE_RLS only where it is needed: by it a frozen table knows
 * referential actions, and what the application's triggers do within our statement is none.
 */
static SavedUser
become_owner(ReactionType *type)
{
	SavedUser	saved;
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(type->legacy_table));
	Form_pg_class table;
	Oid			owner;
	int			context = SECURITY_LOCAL_USERID_CHANGE;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of entity type \"%s\" does not exist", type->name)));
	table = (Form_pg_class) GETSTRUCT(tuple);
	owner = table->relowner;
	if (table->relforcerowsecurity)
		context |= SECURITY_NOFORCE_RLS;
	ReleaseSysCache(tuple);
	GetUserIdAndSecContext(&saved.user, &saved.context);
	SetUserIdAndSecContext(owner, saved.context | context);
	return saved;
}

static SPIPlanPtr
prepare(ReactionType *type, const char *statement, int argument_count, Oid *argument_types, int options)
{
	SavedUser	saved = become_owner(type);
	SPIPlanPtr	plan = SPI_prepare_cursor(statement, argument_count, argument_types, options);

	SetUserIdAndSecContext(saved.user, saved.context);
	if (plan == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not prepare a statement on the attached table: %s", SPI_result_code_string(SPI_result))));
	SPI_keepplan(plan);
	return plan;
}

SPIPlanPtr
legacy_prepare(ReactionType *type, const char *statement, int argument_count, Oid *argument_types)
{
	return prepare(type, statement, argument_count, argument_types, 0);
}

SPIPlanPtr
legacy_prepare_for_values(ReactionType *type, const char *statement, int argument_count, Oid *argument_types)
{
	return prepare(type, statement, argument_count, argument_types, CURSOR_OPT_CUSTOM_PLAN);
}

void
legacy_execute(ReactionType *type, SPIPlanPtr plan, Datum *arguments, Snapshot snapshot, int expected)
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

int64
legacy_number(uint64 row, int column)
{
	bool		is_null;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &is_null);

	return is_null ? 0 : DatumGetInt64(value);
}

int32
legacy_row_flag(ReactionType *type, uint64 row, int column)
{
	TupleDesc	descriptor = SPI_tuptable->tupdesc;
	bool		is_null;
	Datum		kind = SPI_getbinval(SPI_tuptable->vals[row], descriptor, column, &is_null);

	return is_null ? -1 : legacy_flag(type, TupleDescAttr(descriptor, column - 1)->atttypid, kind);
}
