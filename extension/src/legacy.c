/*
 * Reading the attached table.
 */
#include "legacy_statement.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

bool
legacy_is_truth_in(ReactionPhase phase)
{
	return phase == PHASE_ATTACHED || phase == PHASE_DUAL_READ || phase == PHASE_SWITCH_READS;
}

bool
legacy_is_truth(const ReactionType *type)
{
	return legacy_is_truth_in(type->phase);
}

bool
legacy_is_written(const ReactionType *type)
{
	return legacy_is_truth(type);
}

bool
legacy_is_frozen(const ReactionType *type)
{
	return type->phase == PHASE_STOP_WRITES || type->phase == PHASE_ARCHIVED;
}

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
	LegacyPlans *plans = legacy_plans(type);
	MemoryContext caller = CurrentMemoryContext;
	Datum		arguments[2];
	UserFlags	result;

	SPI_connect();
	if (plans->of[READ_USER] == NULL)
	{
		Oid			types[2] = {INT8OID, INT8OID};

		/* Whole entities of the first limit + 1 of the user's. */
		plans->of[READ_USER] =
			legacy_prepare(type, psprintf("SELECT %2$s::pg_catalog.int8, %3$s FROM ONLY %1$s WHERE %4$s OPERATOR(pg_catalog.=) $1 "
							 "ORDER BY 1 LIMIT $2",
							 legacy_table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
							 quote_identifier(type->user_column)),
					2, types);
	}
	arguments[0] = Int64GetDatum(user_id);
	/* Rows enough for limit + 1 entities, whatever kinds they hold. */
	arguments[1] = Int64GetDatum(((int64) limit + 1) * (type->exclusive ? 1 : Max((int64) type->boundary.kind_count, 1)));
	legacy_execute(type, plans->of[READ_USER], arguments, snapshot, SPI_OK_SELECT);
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
	LegacyPlans *plans = legacy_plans(type);
	MemoryContext caller = CurrentMemoryContext;
	Datum	   *elements = palloc_array(Datum, count);
	Datum		arguments[2];
	UserFlags	result;

	for (size_t i = 0; i < count; i++)
		elements[i] = Int64GetDatum(entity_ids[i]);
	arguments[0] = Int64GetDatum(user_id);
	arguments[1] = PointerGetDatum(construct_array(elements, (int) count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	SPI_connect();
	if (plans->of[READ_ENTITIES] == NULL)
	{
		Oid			types[2] = {INT8OID, INT8ARRAYOID};

		plans->of[READ_ENTITIES] =
			legacy_prepare(type, psprintf("SELECT %2$s::pg_catalog.int8, %3$s FROM ONLY %1$s WHERE %4$s OPERATOR(pg_catalog.=) $1 "
							 "AND %2$s OPERATOR(pg_catalog.=) ANY ($2) ORDER BY 1",
							 legacy_table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
							 quote_identifier(type->user_column)),
					2, types);
	}
	legacy_execute(type, plans->of[READ_ENTITIES], arguments, snapshot, SPI_OK_SELECT);
	result = fold_rows(type, caller, -1, 0);
	SPI_finish();
	return result;
}

UserFlags
legacy_read_page(ReactionType *type, int64 user_id, int32 mask, int64 after, int limit, Snapshot snapshot)
{
	LegacyPlans *plans = legacy_plans(type);
	MemoryContext caller = CurrentMemoryContext;
	UserFlags	result = {NULL, NULL, 0, false};

	SPI_connect();
	if (plans->of[READ_PAGE] == NULL)
	{
		Oid			types[3] = {INT8OID, INT8OID, INT8OID};

		plans->of[READ_PAGE] =
			legacy_prepare(type, psprintf("SELECT t.e, l.%3$s FROM (SELECT DISTINCT %2$s::pg_catalog.int8 AS e FROM ONLY %1$s "
							 "WHERE %4$s OPERATOR(pg_catalog.=) $1 AND %2$s OPERATOR(pg_catalog.>) $2 ORDER BY 1 LIMIT $3) t "
							 "JOIN ONLY %1$s l ON l.%4$s OPERATOR(pg_catalog.=) $1 AND l.%2$s OPERATOR(pg_catalog.=) t.e "
							 "ORDER BY 1",
							 legacy_table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
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
		legacy_execute(type, plans->of[READ_PAGE], arguments, snapshot, SPI_OK_SELECT);
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
