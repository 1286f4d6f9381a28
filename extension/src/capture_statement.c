/*
 * The statements that are being captured.
 *
 * Statements within statements. A statement fired by a row trigger of another one draws its versions first although it may have
 * changed the row last, or the other way round. Neither order of versions is right for all, so a statement that finds that events
 * were written since it began asks the table for the keys concerned. Upserts and MERGE fire the triggers of several commands; the same
 * rule covers them.
 *
 * AFTER triggers of a referential action run when its security context is gone: that it is one is remembered from its BEFORE trigger.
 */
#include "capture.h"

#include "access/xact.h"
#include "fmgr.h"
#include "outbox.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

/* ---- statements that are not captured ------------------------------------------------------------------------------------- */

/* The depth of the triggers that such a statement fires; those within its triggers are deeper. */
static int	depth_off = -1;

static int
trigger_depth(void)
{
	LOCAL_FCINFO(fcinfo, 0);

	return DatumGetInt32(pg_trigger_depth(fcinfo));
}

void
capture_off(void)
{
	depth_off = trigger_depth() + 1;
}

void
capture_on(void)
{
	depth_off = -1;
}

bool
capture_is_off(void)
{
	return depth_off >= 0 && trigger_depth() == depth_off;
}

/* ---- statements within statements ---------------------------------------------------------------------------------------- */

typedef struct OpenStatement
{
	Oid			table;
	int			nest_level;		/* of the subtransaction in which it began */
	uint64		inserted;		/* events of this backend when it began */
	bool		is_referential;
} OpenStatement;

static OpenStatement *open_statements = NULL;
static int	open_count = 0;
static int	open_capacity = 0;

void
statement_began(Oid table, bool is_referential)
{
	int			level = GetCurrentTransactionNestLevel();

	/* What an error left open belongs to a subtransaction, or a transaction, that is gone. */
	while (open_count > 0 && open_statements[open_count - 1].nest_level > level)
		open_count--;
	if (open_count == open_capacity)
	{
		int			capacity = Max(open_capacity * 2, 8);

		open_statements = open_statements == NULL
			? MemoryContextAlloc(TopMemoryContext, capacity * sizeof(OpenStatement))
			: repalloc(open_statements, capacity * sizeof(OpenStatement));
		open_capacity = capacity;
	}
	open_statements[open_count++] = (OpenStatement) {table, level, outbox_inserted(), is_referential};
}

EndedStatement
statement_ended(Oid table)
{
	EndedStatement ended = {true, false};

	/* Not always the last: triggers of a referential action come after those of the statement that it is part of. */
	for (int i = open_count - 1; i >= 0; i--)
	{
		if (open_statements[i].table != table)
			continue;
		ended.has_events_within = open_statements[i].inserted != outbox_inserted();
		ended.is_referential = open_statements[i].is_referential;
		open_count--;
		memmove(&open_statements[i], &open_statements[i + 1], (open_count - i) * sizeof(OpenStatement));
		break;
	}
	return ended;
}

static void
transaction_ended(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		open_count = 0;
}

static void
subtransaction_ended(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *argument)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (open_count > 0 && open_statements[open_count - 1].nest_level >= GetCurrentTransactionNestLevel())
		open_count--;
}

void
capture_init(void)
{
	RegisterXactCallback(transaction_ended, NULL);
	RegisterSubXactCallback(subtransaction_ended, NULL);
}
