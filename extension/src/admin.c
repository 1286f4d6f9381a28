/*
 * Functions for operators: what the servers say of themselves, dropping from the cache, checking key templates.
 */
#include "compat.h"

#include "catalog.h"
#include "exchange.h"
#include "funcapi.h"
#include "guc.h"
#include "report.h"
#include "shmem.h"
#include "utils/builtins.h"

static bool
no_truth(rx_exchange *exchange, void *context)
{
	return true;
}

PG_FUNCTION_INFO_V1(reactions_probe);

/* _probe() returns setof (check text, ok boolean, detail text, hint text): Redis and ClickHouse */
Datum
reactions_probe(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	rx_exchange *exchange;
	rx_error	error;

	guc_configure();
	InitMaterializedSRF(fcinfo, 0);
	exchange = rx_probe_begin();
	PG_TRY();
	{
		const rx_probe_row *rows = NULL;
		size_t		count = 0;

		if (exchange_run(exchange, no_truth, NULL, &error))
			count = rx_probe_rows(exchange, &rows);
		for (size_t i = 0; i < count; i++)
		{
			Datum		values[4] = {CStringGetTextDatum(rows[i].check), BoolGetDatum(rows[i].ok != 0),
			CStringGetTextDatum(rows[i].detail), CStringGetTextDatum(rows[i].hint)};
			bool		nulls[4] = {false, false, false, rows[i].hint[0] == '\0'};

			tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
		}
	}
	PG_FINALLY();
	{
		rx_end(exchange);
		shmem_count_exchange();
	}
	PG_END_TRY();
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(reactions_invalidate);

/* invalidate(entity_type text, user_id bigint, entity_id bigint) returns void */
Datum
reactions_invalidate(PG_FUNCTION_ARGS)
{
	ReactionType *type;
	rx_exchange *exchange;
	rx_error	error;
	volatile bool done = false;

	if (PG_ARGISNULL(0) || (PG_ARGISNULL(1) && PG_ARGISNULL(2)))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("entity_type and one of user_id and entity_id must not be null"),
				 errhint("To drop everything of a type from the cache, use reactions.raise_epoch.")));
	type = catalog_type_of_argument(PG_GETARG_TEXT_PP(0));
	guc_configure();
	exchange = rx_invalidate_begin(catalog_boundary(type),
								   !PG_ARGISNULL(1), PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1),
								   !PG_ARGISNULL(2), PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2));
	PG_TRY();
	{
		done = exchange_run(exchange, no_truth, NULL, &error);
	}
	PG_FINALLY();
	{
		rx_end(exchange);
		shmem_count_exchange();
	}
	PG_END_TRY();
	if (!done)
		report_raise(&error);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(reactions_template_shape);

/* _template_shape(template text, required text) returns text; raises for a template that is no good */
Datum
reactions_template_shape(PG_FUNCTION_ARGS)
{
	char	   *template_text = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const char *problem = rx_template_problem(template_text, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	char		shape[256];
	size_t		length;

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key template \"%s\" is not valid", template_text),
				 errdetail("%s", problem),
				 errhint("A template looks like \"reactions:<user>\" or \"post:<shard>:<entity>\".")));
	length = rx_template_shape(template_text, shape, sizeof(shape));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(shape, Min(length, sizeof(shape))));
}

PG_FUNCTION_INFO_V1(reactions_cluster);

/* _cluster() returns (system_identifier bigint, timeline bigint), as the stamp of a user map uses them */
Datum
reactions_cluster(PG_FUNCTION_ARGS)
{
	TupleDesc	descriptor;
	rx_type		boundary;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("return type must be a row type")));
	catalog_cluster(&boundary);
	values[0] = Int64GetDatum((int64) boundary.system_identifier);
	values[1] = Int64GetDatum((int64) boundary.timeline);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}
