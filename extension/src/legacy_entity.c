/*
 * Reading entities from the attached table, as its owner. An index whose first column is the entity makes it cheap.
 */
#include "legacy_entity.h"

#include "catalog/pg_type.h"
#include "legacy_statement.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

static Datum
bigint_array(const int64 *values, size_t count)
{
	Datum	   *elements = palloc_array(Datum, Max(count, 1));

	for (size_t i = 0; i < count; i++)
		elements[i] = Int64GetDatum(values[i]);
	return PointerGetDatum(construct_array(elements, (int) count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Every label under which the table may keep one of the kinds of `mask`. */
static Datum
labels_of(ReactionType *type, int32 mask)
{
	List	   *labels = NIL;
	ListCell   *cell;
	Datum	   *elements;
	int			count = 0;

	for (size_t i = 0; i < type->boundary.kind_count; i++)
		if ((type->boundary.kinds[i].flag & mask) != 0)
			labels = list_concat(labels, legacy_labels(type, type->boundary.kinds[i].flag));
	elements = palloc_array(Datum, Max(list_length(labels), 1));
	foreach(cell, labels)
		elements[count++] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

static int
compare_entities(const void *left, const void *right)
{
	int64		a = **(const int64 *const *) left;
	int64		b = **(const int64 *const *) right;

	return a < b ? -1 : a > b ? 1 : 0;
}

/* Pointers to the ids, ascending by id. */
static const int64 **
sorted(const int64 *entity_ids, size_t count)
{
	const int64 **places = palloc_array(const int64 *, Max(count, 1));

	for (size_t i = 0; i < count; i++)
		places[i] = &entity_ids[i];
	qsort(places, count, sizeof(*places), compare_entities);
	return places;
}

/* A column of type bigint of the last statement's result. */
static int64
number(uint64 row, int column)
{
	bool		is_null;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &is_null);

	return is_null ? 0 : DatumGetInt64(value);
}

/* The flag of a row's kind; -1 if it is skipped. */
static int32
flag(ReactionType *type, uint64 row, int column)
{
	TupleDesc	descriptor = SPI_tuptable->tupdesc;
	bool		is_null;
	Datum		kind = SPI_getbinval(SPI_tuptable->vals[row], descriptor, column, &is_null);

	return is_null ? -1 : legacy_flag(type, TupleDescAttr(descriptor, column - 1)->atttypid, kind);
}

/* Where in `entity_ids` the entity of a row is. */
static size_t
place_of(const int64 *entity_ids, const int64 **places, size_t count, uint64 row)
{
	int64		entity_id = number(row, 1);
	const int64 *wanted = &entity_id;
	const int64 **place = bsearch(&wanted, places, count, sizeof(*places), compare_entities);

	if (place == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("the attached table answered with an entity that it was not asked for")));
	return *place - entity_ids;
}

void
legacy_count_kinds(ReactionType *type, const int64 *entity_ids, size_t count, int64 *numbers, Snapshot snapshot)
{
	LegacyPlans *plans = legacy_plans(type);
	size_t		kinds = type->boundary.kind_count;
	const int64 **places = sorted(entity_ids, count);
	Datum		arguments[1] = {bigint_array(entity_ids, count)};

	memset(numbers, 0, count * kinds * sizeof(int64));
	SPI_connect();
	if (plans->of[COUNT_KINDS] == NULL)
	{
		Oid			types[1] = {INT8ARRAYOID};

		plans->of[COUNT_KINDS] =
			legacy_prepare(type, psprintf("SELECT %2$s::pg_catalog.int8, %3$s, pg_catalog.count(*) FROM ONLY %1$s "
							 "WHERE %2$s OPERATOR(pg_catalog.=) ANY ($1) GROUP BY 1, 2",
							 legacy_table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column)),
					1, types);
	}
	legacy_execute(type, plans->of[COUNT_KINDS], arguments, snapshot, SPI_OK_SELECT);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		int32		of = flag(type, row, 2);

		for (size_t kind = 0; kind < kinds; kind++)
			if (type->boundary.kinds[kind].flag == of)
				numbers[place_of(entity_ids, places, count, row) * kinds + kind] += number(row, 3);
	}
	SPI_finish();
}

void
legacy_count_users(ReactionType *type, const int64 *entity_ids, size_t count, int64 *numbers, Snapshot snapshot)
{
	LegacyPlans *plans = legacy_plans(type);
	const int64 **places = sorted(entity_ids, count);
	Datum		arguments[2] = {bigint_array(entity_ids, count), labels_of(type, type->all_flags)};

	memset(numbers, 0, count * sizeof(int64));
	SPI_connect();
	if (plans->of[COUNT_USERS] == NULL)
	{
		Oid			types[2] = {INT8ARRAYOID, TEXTARRAYOID};

		plans->of[COUNT_USERS] =
			legacy_prepare(type, psprintf("SELECT %2$s::pg_catalog.int8, pg_catalog.count(DISTINCT %4$s) FROM ONLY %1$s "
							 "WHERE %2$s OPERATOR(pg_catalog.=) ANY ($1) "
							 "AND %3$s::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($2) GROUP BY 1",
							 legacy_table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
							 quote_identifier(type->user_column)),
					2, types);
	}
	legacy_execute(type, plans->of[COUNT_USERS], arguments, snapshot, SPI_OK_SELECT);
	for (uint64 row = 0; row < SPI_processed; row++)
		numbers[place_of(entity_ids, places, count, row)] = number(row, 2);
	SPI_finish();
}

/* The time of a row as an expression; a time without zone is UTC, as capture takes it. */
static char *
created_expression(ReactionType *type)
{
	const char *column = type->created_column == NULL ? NULL : quote_identifier(type->created_column);
	Oid			of_type = column == NULL ? InvalidOid
		: get_atttype(type->legacy_table, get_attnum(type->legacy_table, type->created_column));

	if (of_type != TIMESTAMPOID && of_type != TIMESTAMPTZOID)
		return "'-infinity'::pg_catalog.timestamptz";
	return psprintf("coalesce(%s, '-infinity'::pg_catalog.timestamptz)",
					of_type == TIMESTAMPTZOID ? column : psprintf("pg_catalog.timezone('UTC', %s)", column));
}

TableReactor *
legacy_read_reactors(ReactionType *type, int64 entity_id, int32 mask, const TableReactor *after, int limit, Snapshot snapshot,
					 size_t *count)
{
	LegacyPlans *plans = legacy_plans(type);
	TableReactor *reactors = palloc_array(TableReactor, limit);
	Datum		arguments[6] = {
		Int64GetDatum(entity_id), labels_of(type, type->all_flags), labels_of(type, mask),
		TimestampTzGetDatum(after == NULL ? DT_NOEND : after->created_at),
		Int64GetDatum(after == NULL ? PG_INT64_MAX : after->user_id), Int64GetDatum((int64) limit)
	};

	*count = 0;
	SPI_connect();
	if (plans->of[READ_REACTORS] == NULL)
	{
		Oid			types[6] = {INT8OID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID, INT8OID, INT8OID};

		/* Whole users of the page; a row of the last statement for each kind. */
		plans->of[READ_REACTORS] =
			legacy_prepare(type, psprintf("SELECT p.u, l.%3$s, p.c FROM ("
							 "SELECT %4$s::pg_catalog.int8 AS u, pg_catalog.max(%5$s) AS c FROM ONLY %1$s "
							 "WHERE %2$s OPERATOR(pg_catalog.=) $1 AND %3$s::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($2) "
							 "GROUP BY 1 HAVING pg_catalog.bool_or(%3$s::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($3)) "
							 "AND (pg_catalog.max(%5$s), %4$s::pg_catalog.int8) OPERATOR(pg_catalog.<) ($4, $5) "
							 "ORDER BY 2 DESC, 1 DESC LIMIT $6) p "
							 "JOIN ONLY %1$s l ON l.%2$s OPERATOR(pg_catalog.=) $1 AND l.%4$s OPERATOR(pg_catalog.=) p.u "
							 "ORDER BY p.c DESC, p.u DESC",
							 legacy_table_name(type), quote_identifier(type->entity_column), quote_identifier(type->kind_column),
							 quote_identifier(type->user_column), created_expression(type)),
					6, types);
	}
	legacy_execute(type, plans->of[READ_REACTORS], arguments, snapshot, SPI_OK_SELECT);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		int64		user_id = number(row, 1);
		int32		of = flag(type, row, 2);

		if (of < 0)
			continue;
		if (*count == 0 || reactors[*count - 1].user_id != user_id)
			reactors[(*count)++] = (TableReactor) {user_id, number(row, 3), 0};
		reactors[*count - 1].flags |= of;
	}
	SPI_finish();
	return reactors;
}
