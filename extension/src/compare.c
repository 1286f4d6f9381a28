/*
 * Compared reads.
 *
 * A read cannot write rows (it may run on a standby, or in a read-only transaction), so what came of a comparison goes into a capped
 * list in Redis, as JSON; reactions._digest_compared takes it from there. A difference may be an event that committed between the two
 * reads: it is looked at again later.
 */
#include "compare.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "exchange.h"
#include "funcapi.h"
#include "guc.h"
#include "lib/stringinfo.h"
#include "outbox.h"
#include "portability/instr_time.h"
#include "read.h"
#include "report.h"
#include "shmem.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"

/* Differences that one record names. */
#define MOST_DIFFERENCES 20

static bool
no_truth(rx_exchange *exchange, void *context)
{
	return true;
}

/* Runs an exchange whose outcome is of no interest. */
static void
run_and_forget(rx_exchange *exchange)
{
	rx_error	error;

	PG_TRY();
	{
		(void) exchange_run(exchange, no_truth, NULL, &error);
	}
	PG_FINALLY();
	{
		rx_end(exchange);
		shmem_count_exchange();
	}
	PG_END_TRY();
}

static void
append_differences(StringInfo record, const int64 *entity_ids, size_t count, const int32 *in_table, const int32 *in_cache)
{
	int			found = 0;

	for (size_t i = 0; i < count; i++)
	{
		if (in_table[i] == in_cache[i])
			continue;
		if (found++ < MOST_DIFFERENCES)
			appendStringInfo(record, "%s[" INT64_FORMAT ",%d,%d]", found == 1 ? ",\"differences\":[" : ",",
							 entity_ids[i], in_table[i], in_cache[i]);
	}
	if (found > 0)
		appendStringInfo(record, "],\"differing\":%d", found);
}

void
compare_read(ReactionType *type, int64 user_id, const int64 *entity_ids, size_t count, const int32 *table_flags)
{
	int32	   *cache_flags;
	size_t		missed = 0;
	instr_time	start;
	instr_time	duration;
	rx_error	error;
	StringInfoData record;

	/* A transaction that has written sees in the table what no other way can show yet. */
	if (compare_share <= 0 || pg_prng_double(&pg_global_prng_state) >= compare_share || IsInParallelMode() ||
		outbox_written_in_transaction() || !guc_try_configure())
		return;
	cache_flags = palloc_array(int32, count);
	initStringInfo(&record);
	appendStringInfo(&record, "{\"at\":" INT64_FORMAT ",\"user\":" INT64_FORMAT ",\"ids\":%zu",
					 GetCurrentTimestamp() + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY, user_id, count);
	INSTR_TIME_SET_CURRENT(start);
	if (read_through_cache(type, user_id, entity_ids, count, cache_flags, &missed, &error))
	{
		INSTR_TIME_SET_CURRENT(duration);
		INSTR_TIME_SUBTRACT(duration, start);
		appendStringInfo(&record, ",\"missed\":%zu,\"microseconds\":" INT64_FORMAT, missed,
						 (int64) INSTR_TIME_GET_MICROSEC(duration));
		append_differences(&record, entity_ids, count, table_flags, cache_flags);
	}
	else
	{
		appendStringInfoString(&record, ",\"failed\":");
		escape_json(&record, error.message);
	}
	appendStringInfoChar(&record, '}');
	run_and_forget(rx_compared_begin(catalog_boundary(type), record.data, record.len));
	pfree(record.data);
	pfree(cache_flags);
}

PG_FUNCTION_INFO_V1(reactions_take_compared);

/* _take_compared(entity_type text, drop integer, take integer) returns setof text, the oldest first */
Datum
reactions_take_compared(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(0));
	int32		take = PG_GETARG_INT32(2);
	rx_exchange *exchange;
	rx_error	error;
	volatile bool done = false;

	guc_configure();
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	exchange = rx_compared_take_begin(catalog_boundary(type), PG_GETARG_INT32(1), take);
	PG_TRY();
	{
		done = exchange_run(exchange, no_truth, NULL, &error);
		for (size_t i = 0; done && i < (size_t) Max(take, 0); i++)
		{
			size_t		length = 0;
			const char *record = rx_compared_record(exchange, i, &length);
			Datum		value;
			bool		is_null = false;

			if (record == NULL)
				break;
			value = PointerGetDatum(cstring_to_text_with_len(record, length));
			tuplestore_putvalues(result->setResult, result->setDesc, &value, &is_null);
		}
	}
	PG_FINALLY();
	{
		rx_end(exchange);
		shmem_count_exchange();
	}
	PG_END_TRY();
	if (!done)
		report_raise(&error);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(reactions_compare);

/* _compare(user_id bigint, entity_id bigint, entity_type text) returns (in_table integer, in_cache integer) */
Datum
reactions_compare(PG_FUNCTION_ARGS)
{
	int64		user_id = PG_GETARG_INT64(0);
	int64		entity_id = PG_GETARG_INT64(1);
	ReactionType *type = catalog_type_of_argument(PG_GETARG_TEXT_PP(2));
	TupleDesc	descriptor;
	rx_error	error;
	int32		in_table;
	int32		in_cache;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("return type must be a row type")));
	if (!legacy_is_truth(type))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("entity type \"%s\" has no table to compare with", type->name)));
	guc_configure();
	if (!read_through_cache(type, user_id, &entity_id, 1, &in_cache, NULL, &error))
		report_raise(&error);
	read_from_table(type, user_id, entity_id, &in_table);
	values[0] = Int32GetDatum(in_table);
	values[1] = Int32GetDatum(in_cache);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}
