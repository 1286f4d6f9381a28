/*
 * _write_back: what a frozen table has missed, written into it on the way back to switch_reads.
 *
 * The rows are known to ClickHouse and Redis already, so these statements, and no others, pass the frozen table's triggers without an
 * event. A batch is one subtransaction; only if the table refuses something in it, each key gets one of its own, and one that is
 * refused is written part by part; what is refused is reported. Errors that say nothing of the rows (a deadlock, a cancel, a full disk, a column that is gone) are not swallowed.
 */
#include "legacy_statement.h"

#include "access/xact.h"
#include "capture.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/* What one call is to write: arrays of one length. */
typedef struct WriteBack
{
	ReactionType *type;
	int			count;
	Datum	   *user_ids;
	Datum	   *entity_ids;
	Datum	   *set_masks;
	Datum	   *clear_masks;
	Datum	   *created_at;
} WriteBack;

/* ---- statements ---------------------------------------------------------------------------------------------------------- */

static SPIPlanPtr
delete_plan(ReactionType *type, LegacyPlans *plans)
{
	Oid			types[3] = {INT8OID, INT8OID, TEXTARRAYOID};

	if (plans->of[WRITE_BACK_DELETE] == NULL)
		plans->of[WRITE_BACK_DELETE] =
			legacy_prepare(type, psprintf("DELETE FROM ONLY %s WHERE %s OPERATOR(pg_catalog.=) $1 AND %s OPERATOR(pg_catalog.=) $2 "
										  "AND %s::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($3)",
										  legacy_table_name(type), quote_identifier(type->user_column),
										  quote_identifier(type->entity_column), quote_identifier(type->kind_column)),
						   3, types);
	return plans->of[WRITE_BACK_DELETE];
}

/* "timestamp" is taken as UTC, as by capture. */
static const char *
created_value(ReactionType *type)
{
	Oid			column_type = get_atttype(type->legacy_table, get_attnum(type->legacy_table, type->created_column));

	return column_type == TIMESTAMPOID ? "pg_catalog.timezone('UTC', $4)" : "$4";
}

static SPIPlanPtr
insert_plan(ReactionType *type, LegacyPlans *plans)
{
	Oid			types[4] = {INT8OID, INT8OID, TEXTARRAYOID, TIMESTAMPTZOID};
	const char *kind = quote_identifier(type->kind_column);
	StringInfoData columns;
	StringInfoData values;
	StringInfoData on_conflict;

	if (plans->of[WRITE_BACK_INSERT] != NULL)
		return plans->of[WRITE_BACK_INSERT];
	initStringInfo(&columns);
	initStringInfo(&values);
	initStringInfo(&on_conflict);
	appendStringInfo(&columns, "%s, %s, %s", quote_identifier(type->user_column), quote_identifier(type->entity_column), kind);
	appendStringInfo(&values, "$1, $2, l::%s", format_type_extended(plans->kind_type, -1, FORMAT_TYPE_FORCE_QUALIFY));
	if (type->created_column != NULL)
	{
		appendStringInfo(&columns, ", %s", quote_identifier(type->created_column));
		appendStringInfo(&values, ", %s", created_value(type));
	}
	legacy_append_extra(type, type->created_column, &columns, &values);
	if (type->exclusive)
	{
		appendStringInfo(&on_conflict, "(%1$s, %2$s) DO UPDATE SET %3$s = EXCLUDED.%3$s", quote_identifier(type->user_column),
						 quote_identifier(type->entity_column), kind);
		if (type->created_column != NULL)
			appendStringInfo(&on_conflict, ", %1$s = EXCLUDED.%1$s", quote_identifier(type->created_column));
		appendStringInfo(&on_conflict, " WHERE NOT (r.%1$s OPERATOR(pg_catalog.=) EXCLUDED.%1$s)", kind);
	}
	else
		appendStringInfo(&on_conflict, "(%s, %s, %s) DO NOTHING", quote_identifier(type->user_column),
						 quote_identifier(type->entity_column), kind);
	plans->of[WRITE_BACK_INSERT] =
		legacy_prepare(type, psprintf("INSERT INTO %s AS r (%s) SELECT %s FROM pg_catalog.unnest($3) AS l ON CONFLICT %s",
									  legacy_table_name(type), columns.data, values.data, on_conflict.data),
					   4, types);
	return plans->of[WRITE_BACK_INSERT];
}

/* The labels of the kinds of a mask: those under which rows are written, or all under which there may be rows. */
static Datum
labels_of(ReactionType *type, int32 mask, bool all)
{
	List	   *labels = NIL;
	Datum	   *elements;
	ListCell   *cell;
	int			count = 0;

	for (size_t i = 0; i < type->boundary.kind_count; i++)
	{
		int32		flag = type->boundary.kinds[i].flag;

		if ((mask & flag) == 0)
			continue;
		labels = all ? list_concat(labels, legacy_labels(type, flag)) : lappend(labels, legacy_label(type, flag));
	}
	elements = palloc_array(Datum, Max(list_length(labels), 1));
	foreach(cell, labels)
		elements[count++] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
write_key(const WriteBack *work, int i)
{
	ReactionType *type = work->type;
	LegacyPlans *plans = legacy_plans(type);
	Datum		arguments[4] = {work->user_ids[i], work->entity_ids[i], (Datum) 0, work->created_at[i]};
	int32		set_mask = DatumGetInt32(work->set_masks[i]);
	int32		clear_mask = DatumGetInt32(work->clear_masks[i]) & ~set_mask;

	/* An exclusive row is replaced by the insert, not removed first. */
	if (clear_mask != 0 && !(type->exclusive && set_mask != 0))
	{
		arguments[2] = labels_of(type, clear_mask, true);
		legacy_execute(type, delete_plan(type, plans), arguments, InvalidSnapshot, SPI_OK_DELETE);
	}
	if (set_mask != 0)
	{
		arguments[2] = labels_of(type, set_mask, false);
		legacy_execute(type, insert_plan(type, plans), arguments, InvalidSnapshot, SPI_OK_INSERT);
	}
}

static void
write_keys(const WriteBack *work, int first, int count)
{
	MemoryContext of_key;

	SPI_connect();
	of_key = AllocSetContextCreate(CurrentMemoryContext, "pg_reactions write back", ALLOCSET_SMALL_SIZES);
	capture_off();
	PG_TRY();
	{
		for (int i = first; i < first + count; i++)
		{
			MemoryContext before = MemoryContextSwitchTo(of_key);

			CHECK_FOR_INTERRUPTS();
			write_key(work, i);
			MemoryContextSwitchTo(before);
			MemoryContextReset(of_key);
		}
	}
	PG_FINALLY();
	{
		capture_on();
	}
	PG_END_TRY();
	SPI_finish();
}

/* ---- subtransactions ----------------------------------------------------------------------------------------------------- */

/* Whether an error says that the table does not want the row: its constraints, its types, a RAISE of its triggers. */
static bool
is_refusal(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION) ||
		category == ERRCODE_DATA_EXCEPTION || category == ERRCODE_WITH_CHECK_OPTION_VIOLATION ||
		category == ERRCODE_PLPGSQL_ERROR;
}

/* Writes the keys in a subtransaction. Returns NULL, or what the table refused, in the current memory context; nothing is left of it. */
static char *
try_keys(const WriteBack *work, int first, int count)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile problem = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		write_keys(work, first, count);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!is_refusal(error->sqlerrcode))
			ReThrowError(error);
		problem = pstrdup(error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	return problem;
}

/*
 * Writes a key that is refused as a whole, part by part: what was taken away is, whatever becomes of what was set, and of several kinds
 * only those are missing that the table does not want. Returns what it refused, or NULL; "flags" are the kinds of that.
 */
static char *
write_in_parts(const WriteBack *work, int i, int32 *flags)
{
	const ReactionType *type = work->type;
	int32		set_mask = DatumGetInt32(work->set_masks[i]);
	int32		clear_mask = DatumGetInt32(work->clear_masks[i]) & ~set_mask;
	bool		replaces = type->exclusive && set_mask != 0;
	Datum		set = Int32GetDatum(0);
	Datum		clear = Int32GetDatum(replaces ? type->all_flags : clear_mask);
	WriteBack	part = {
		work->type, 1, &work->user_ids[i], &work->entity_ids[i], &set, &clear, &work->created_at[i]
	};
	char	   *refused = try_keys(&part, 0, 1);

	*flags = refused != NULL ? clear_mask & type->all_flags : 0;
	clear = Int32GetDatum(0);
	for (size_t kind = 0; kind < type->boundary.kind_count; kind++)
	{
		int32		flag = set_mask & type->boundary.kinds[kind].flag;
		char	   *problem;

		if (flag == 0)
			continue;
		set = Int32GetDatum(flag);
		problem = try_keys(&part, 0, 1);
		if (problem != NULL)
		{
			refused = problem;
			*flags |= flag;
		}
		else if (replaces)
		{
			/* The row that would not go has become this one. */
			refused = NULL;
			*flags = 0;
		}
	}
	return refused;
}

/* A deferred constraint would refuse the whole transaction at its end. */
static void
check_constraints_at_once(void)
{
	SPI_connect();
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not have constraints checked at once")));
	SPI_finish();
}

/* ---- the function -------------------------------------------------------------------------------------------------------- */

static Datum *
elements_of(FunctionCallInfo fcinfo, int argument, Oid type, int *count)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(argument);
	Datum	   *elements;

	if (ARR_NDIM(array) > 1 || array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("arrays of _write_back must have one dimension and no nulls")));
	deconstruct_array(array, type, type == INT4OID ? 4 : 8, type == INT4OID || FLOAT8PASSBYVAL,
					  type == INT4OID ? TYPALIGN_INT : TYPALIGN_DOUBLE, &elements, NULL, count);
	return elements;
}

static WriteBack
arguments_of(FunctionCallInfo fcinfo)
{
	WriteBack	work;
	int			counts[5];

	work.user_ids = elements_of(fcinfo, 1, INT8OID, &counts[0]);
	work.entity_ids = elements_of(fcinfo, 2, INT8OID, &counts[1]);
	work.set_masks = elements_of(fcinfo, 3, INT4OID, &counts[2]);
	work.clear_masks = elements_of(fcinfo, 4, INT4OID, &counts[3]);
	work.created_at = elements_of(fcinfo, 5, TIMESTAMPTZOID, &counts[4]);
	work.count = counts[0];
	for (int i = 1; i < lengthof(counts); i++)
		if (counts[i] != work.count)
			ereport(ERROR,
					(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
					 errmsg("arrays of _write_back must have the same length")));
	catalog_fence();
	work.type = catalog_type_of_argument(PG_GETARG_TEXT_PP(0));
	if (!legacy_is_frozen(work.type) || !OidIsValid(work.type->legacy_table))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("entity type \"%s\" has no table that misses reactions", work.type->name),
				 errdetail("A table misses them in the phases stop_writes and archived.")));
	for (int i = 0; i < work.count; i++)
		if ((DatumGetInt32(work.set_masks[i]) & ~work.type->all_flags) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("flags %d are outside the kinds of entity type \"%s\"", DatumGetInt32(work.set_masks[i]),
							work.type->name)));
	return work;
}

PG_FUNCTION_INFO_V1(reactions_write_back);

/* _write_back(entity_type, user_ids, entity_ids, set_masks, clear_masks, created_at) returns setof (place, user_id, entity_id, flags, problem) */
Datum
reactions_write_back(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	WriteBack	work;

	PreventCommandIfReadOnly("reactions._write_back()");
	InitMaterializedSRF(fcinfo, 0);
	work = arguments_of(fcinfo);
	check_constraints_at_once();
	if (work.count == 0 || try_keys(&work, 0, work.count) == NULL)
		return (Datum) 0;
	for (int i = 0; i < work.count; i++)
	{
		int32		flags = 0;
		char	   *problem = try_keys(&work, i, 1) == NULL ? NULL : write_in_parts(&work, i, &flags);
		Datum		values[5] = {Int32GetDatum(i + 1), work.user_ids[i], work.entity_ids[i], Int32GetDatum(flags), (Datum) 0};
		bool		nulls[5] = {false};

		if (problem == NULL)
			continue;
		values[4] = CStringGetTextDatum(problem);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
