/*
 * Counting in the attached table, as its owner. It costs what the entities' rows cost, which an index whose first column is the entity
 * finds.
 */
#include "legacy_entity.h"

#include "catalog/pg_type.h"
#include "legacy_statement.h"
#include "utils/array.h"
#include "utils/builtins.h"

static Datum
bigint_array(const int64 *values, size_t count)
{
	Datum	   *elements = palloc_array(Datum, Max(count, 1));

	for (size_t i = 0; i < count; i++)
		elements[i] = Int64GetDatum(values[i]);
	return PointerGetDatum(construct_array(elements, (int) count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
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

/* Where in `entity_ids` the entity of a row is. */
static size_t
place_of(const int64 *entity_ids, const int64 **places, size_t count, uint64 row)
{
	int64		entity_id = legacy_number(row, 1);
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
		int32		of = legacy_row_flag(type, row, 2);

		for (size_t kind = 0; kind < kinds; kind++)
			if (type->boundary.kinds[kind].flag == of)
				numbers[place_of(entity_ids, places, count, row) * kinds + kind] += legacy_number(row, 3);
	}
	SPI_finish();
}

void
legacy_count_users(ReactionType *type, const int64 *entity_ids, size_t count, int64 *numbers, Snapshot snapshot)
{
	LegacyPlans *plans = legacy_plans(type);
	const int64 **places = sorted(entity_ids, count);
	Datum		arguments[2] = {bigint_array(entity_ids, count), legacy_label_array(type, type->all_flags)};

	memset(numbers, 0, count * sizeof(int64));
	SPI_connect();
	if (plans->of[COUNT_USERS] == NULL)
	{
		Oid			types[2] = {INT8ARRAYOID, legacy_label_array_type(type)};

		plans->of[COUNT_USERS] =
			legacy_prepare(type, psprintf("SELECT r.%2$s::pg_catalog.int8, pg_catalog.count(DISTINCT r.%4$s) FROM ONLY %1$s r "
							 "WHERE r.%2$s OPERATOR(pg_catalog.=) ANY ($1) AND %3$s GROUP BY 1",
							 legacy_table_name(type), quote_identifier(type->entity_column), legacy_kind_is_one_of(type, "r", "$2"),
							 quote_identifier(type->user_column)),
					2, types);
	}
	legacy_execute(type, plans->of[COUNT_USERS], arguments, snapshot, SPI_OK_SELECT);
	for (uint64 row = 0; row < SPI_processed; row++)
		numbers[place_of(entity_ids, places, count, row)] = legacy_number(row, 2);
	SPI_finish();
}
