/*
 * The functions that read an entity's side: counts, total, is_viral, unique_reactors, ever_reacted, reactors, entity_status.
 */
#include "functions.h"

#include "entity_cursor.h"
#include "funcapi.h"
#include "report.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog/pg_type.h"

#define MAXIMUM_REACTORS 10000

PG_FUNCTION_INFO_V1(reactions_counts);

/* counts(entity_ids bigint[], entity_type text) returns setof (entity_id bigint, kind text, count bigint) */
Datum
reactions_counts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result;
	size_t		count;
	int64	   *entity_ids = distinct_ids(PG_GETARG_ARRAYTYPE_P(0), &count);
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(1));
	size_t		kinds = type->boundary.kind_count;
	int64	   *numbers = MemoryContextAllocHuge(CurrentMemoryContext, Max(count * kinds, 1) * sizeof(int64));
	Datum	   *names = palloc_array(Datum, Max(kinds, 1));
	rx_error	error;
	bool		known = entity_counts(type, RX_COUNT_KINDS, entity_ids, count, numbers, NULL, &error);

	if (!known)
		unknown_or_raise(&error);
	for (size_t kind = 0; kind < kinds; kind++)
		names[kind] = CStringGetTextDatum(type->boundary.kinds[kind].name);
	result = begin_rows(fcinfo);
	for (size_t i = 0; i < count; i++)
	{
		for (size_t kind = 0; kind < kinds; kind++)
		{
			Datum		values[3] = {Int64GetDatum(entity_ids[i]), names[kind], known ? Int64GetDatum(numbers[i * kinds + kind]) : (Datum) 0};
			bool		nulls[3] = {false, false, !known};

			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}

/* Sum of the kinds' counts of one entity; -1 if it cannot be known. `tier` as Redis says it. */
static int64
total_of(ReactionType *type, int64 entity_id, uint8 *tier)
{
	size_t		kinds = type->boundary.kind_count;
	int64	   *numbers = palloc_array(int64, Max(kinds, 1));
	int64		total = 0;
	rx_error	error;

	if (!entity_counts(type, RX_COUNT_KINDS, &entity_id, 1, numbers, tier, &error))
	{
		unknown_or_raise(&error);
		return -1;
	}
	for (size_t kind = 0; kind < kinds; kind++)
		total += numbers[kind];
	return total;
}

PG_FUNCTION_INFO_V1(reactions_total);

/* total(entity_id bigint, entity_type text) returns bigint */
Datum
reactions_total(PG_FUNCTION_ARGS)
{
	uint8		tier;
	int64		total = total_of(catalog_type_of_argument(PG_GETARG_TEXT_PP(1)), PG_GETARG_INT64(0), &tier);

	if (total < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(total);
}

PG_FUNCTION_INFO_V1(reactions_is_viral);

/* is_viral(entity_id bigint, entity_type text) returns boolean: the tier in Redis, else whether it would be that one */
Datum
reactions_is_viral(PG_FUNCTION_ARGS)
{
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(1));
	uint8		tier;
	int64		total = total_of(type, PG_GETARG_INT64(0), &tier);

	if (total < 0)
		PG_RETURN_NULL();
	PG_RETURN_BOOL(tier == 0 ? total >= type->viral_threshold : tier == 'v');
}

PG_FUNCTION_INFO_V1(reactions_unique_reactors);

/* unique_reactors(entity_id bigint, entity_type text) returns bigint */
Datum
reactions_unique_reactors(PG_FUNCTION_ARGS)
{
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(1));
	int64		entity_id = PG_GETARG_INT64(0);
	uint8		tier;
	int64		users;
	rx_error	error;

	/* One kind at a time: as many users as reactions. */
	if (type->exclusive)
	{
		users = total_of(type, entity_id, &tier);
		if (users < 0)
			PG_RETURN_NULL();
		PG_RETURN_INT64(users);
	}
	if (entity_counts(type, RX_COUNT_USERS, &entity_id, 1, &users, NULL, &error))
		PG_RETURN_INT64(users);
	unknown_or_raise(&error);
	PG_RETURN_NULL();
}

PG_FUNCTION_INFO_V1(reactions_ever_reacted);

/* ever_reacted(entity_id bigint, entity_type text, OUT estimated_users bigint) */
Datum
reactions_ever_reacted(PG_FUNCTION_ARGS)
{
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(1));
	int64		entity_id = PG_GETARG_INT64(0);
	int64		users;
	rx_error	error;

	if (!type->backfilled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the table of entity type \"%s\" is not in ClickHouse yet, which alone knows who has ever reacted", type->name),
				 errhint("Wait until reactions.backfill says that it is done.")));
	if (entity_counts(type, RX_COUNT_EVER_REACTED, &entity_id, 1, &users, NULL, &error))
		PG_RETURN_INT64(users);
	unknown_or_raise(&error);
	PG_RETURN_NULL();
}

/* When the user reacted, as far as it is known. */
static Datum
reacted_at(const ReactorPlace *place, bool *is_null)
{
	if (place->order == ORDER_BY_TABLE)
	{
		*is_null = TIMESTAMP_IS_NOBEGIN(place->created_at);
		return TimestampTzGetDatum(place->created_at);
	}
	*is_null = place->position.time == 0;
	return TimestampTzGetDatum(time_t_to_timestamptz(place->position.time));
}

PG_FUNCTION_INFO_V1(reactions_reactors);

/*
 * reactors(entity_id bigint, kind text, page_size integer, cursor text, entity_type text)
 * returns setof (user_id bigint, flags integer, reacted_at timestamptz, cursor text)
 */
Datum
reactions_reactors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result;
	ReactionType *type;
	int64		entity_id;
	int32		mask;
	int32		page_size;
	ReactorPlace after;
	EntityReactor *reactors;
	size_t		count = 0;
	rx_error	error;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(4))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("entity_id, page_size and entity_type must not be null")));
	type = catalog_type_of_argument(PG_GETARG_TEXT_PP(4));
	entity_id = PG_GETARG_INT64(0);
	mask = PG_ARGISNULL(1) ? type->all_flags : catalog_flag(type, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	page_size = PG_GETARG_INT32(2);
	if (page_size < 1 || page_size > MAXIMUM_REACTORS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("page_size must be between 1 and %d", MAXIMUM_REACTORS)));
	if (!PG_ARGISNULL(3))
		after = entity_cursor_place(type, entity_id, mask, text_to_cstring(PG_GETARG_TEXT_PP(3)));
	reactors = entity_reactors(type, entity_id, mask, PG_ARGISNULL(3) ? NULL : &after, page_size, &count, &error);
	if (reactors == NULL)
		report_raise(&error);
	result = begin_rows(fcinfo);
	for (size_t i = 0; i < count; i++)
	{
		bool		nulls[4] = {false, false, false, false};
		Datum		values[4] = {
			Int64GetDatum(reactors[i].place.position.user_id), Int32GetDatum(reactors[i].flags),
			reacted_at(&reactors[i].place, &nulls[2]),
			CStringGetTextDatum(entity_cursor_text(type, entity_id, mask, &reactors[i].place))
		};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(reactions_entity_status);

/*
 * entity_status(entity_id bigint, entity_type text, OUT tier text, OUT tier_since timestamptz, OUT tier_reason text,
 * OUT counted_batch bigint, OUT built_at timestamptz)
 */
Datum
reactions_entity_status(PG_FUNCTION_ARGS)
{
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(1));
	rx_entity_status status = {0};
	rx_error	error;
	TupleDesc	descriptor;
	Datum		values[5] = {0};
	bool		nulls[5] = {true, true, true, true, true};

	/* Whatever reactions.on_unavailable says: nulls are what Redis does not have. */
	if (!entity_status(type, PG_GETARG_INT64(0), &status, &error))
		report_raise(&error);
	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("function returning record called in a context that cannot accept type record")));
	if (status.tier != 0)
	{
		values[0] = CStringGetTextDatum(status.tier == 'v' ? "viral" : "regular");
		values[1] = TimestampTzGetDatum(time_t_to_timestamptz(status.tier_since));
		values[2] = CStringGetTextDatum(status.reason);
		values[3] = Int64GetDatum(status.counted_batch);
		values[4] = TimestampTzGetDatum(time_t_to_timestamptz(status.built_at));
		memset(nulls, false, sizeof(nulls));
		nulls[1] = nulls[2] = status.tier_since == 0;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}
