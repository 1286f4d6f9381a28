/*
 * Errors of the Swift half, translated.
 *
 * Called only after the exchange has been ended: no Swift frame is on the stack and no Swift memory is referred to.
 */
#include "report.h"

static const struct
{
	rx_error_code code;
	int			sqlstate;
	bool		unavailable;
}			translations[] = {
	{RX_ERROR_REDIS_UNREACHABLE, ERRCODE_CONNECTION_FAILURE, true},
	{RX_ERROR_REDIS_REFUSED, ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION, true},
	{RX_ERROR_REDIS_NONSENSE, ERRCODE_PROTOCOL_VIOLATION, true},
	{RX_ERROR_CLICKHOUSE_UNREACHABLE, ERRCODE_CONNECTION_FAILURE, true},
	{RX_ERROR_CLICKHOUSE_REFUSED, ERRCODE_SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION, true},
	{RX_ERROR_CLICKHOUSE_NONSENSE, ERRCODE_PROTOCOL_VIOLATION, true},
	{RX_ERROR_CLICKHOUSE_FAILED, ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, true},
	{RX_ERROR_NOT_CONFIGURED, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, false},
	{RX_ERROR_OUT_OF_RANGE, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, false},
	{RX_ERROR_INTERNAL, ERRCODE_INTERNAL_ERROR, false},
};

bool
report_is_unavailable(const rx_error *error)
{
	for (int i = 0; i < lengthof(translations); i++)
		if (translations[i].code == error->code)
			return translations[i].unavailable;
	return false;
}

void
report_raise(const rx_error *error)
{
	int			sqlstate = ERRCODE_INTERNAL_ERROR;

	for (int i = 0; i < lengthof(translations); i++)
		if (translations[i].code == error->code)
			sqlstate = translations[i].sqlstate;
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("%s", error->message[0] != '\0' ? error->message : "exchange with an outside server failed"),
			 error->detail[0] != '\0' ? errdetail("%s", error->detail) : 0,
			 error->hint[0] != '\0' ? errhint("%s", error->hint) : 0));
}
