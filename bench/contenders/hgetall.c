/*
 * What one writes without pg_reactions and without redis_fdw: a set-returning function that fetches a hash over a kept connection.
 * Contender of bench-reads; redis_fdw does the same with a new connection for every scan.
 */
#include "postgres.h"

#include <hiredis/hiredis.h>

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(hgetall);

/* hgetall(socket text, key text) RETURNS TABLE (field text, value text) */
Datum
hgetall(PG_FUNCTION_ARGS)
{
	static redisContext *connection = NULL;
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *key = PG_GETARG_TEXT_PP(1);
	redisReply *reply;

	if (connection == NULL)
		connection = redisConnectUnix(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (connection == NULL || connection->err != 0)
		ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("cannot connect to Redis")));
	reply = redisCommand(connection, "HGETALL %b", VARDATA_ANY(key), (size_t) VARSIZE_ANY_EXHDR(key));
	if (reply == NULL || reply->type != REDIS_REPLY_ARRAY)
		ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("Redis did not answer with a hash")));
	InitMaterializedSRF(fcinfo, 0);
	for (size_t i = 0; i + 1 < reply->elements; i += 2)
	{
		Datum		values[2];
		bool		nulls[2] = {false, false};

		for (int j = 0; j < 2; j++)
			values[j] = PointerGetDatum(cstring_to_text_with_len(reply->element[i + j]->str, reply->element[i + j]->len));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	freeReplyObject(reply);
	return (Datum) 0;
}
