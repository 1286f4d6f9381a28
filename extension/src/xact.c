/*
 * What happens around a commit.
 *
 * Before it (an error would still be harmless, but none is wanted): Redis is connected to if need be, so that a session sees what it has
 * just written; the events to apply are noted, and the agent's bell is rung if it is asleep.
 * After it, in the COMMIT callback, which may not raise, cannot be cancelled and holds locks: what was noted is sent with poll(2)
 * under one deadline for all keys, on connections that are already open. Whatever does not get through is the agent's.
 *
 * Bell. The agent holds an advisory lock while it is asleep. It takes the lock first, then drains until no transaction of a later
 * snapshot runs. A writer tries the lock, in share mode and without waiting, when it has its xid and before it commits. Either it sees the
 * lock, and notifies; or it tried before the agent had the lock, and then it runs in the agent's snapshot, which waits for it. A dead
 * agent holds nothing, so nobody pays for notifications that nobody hears.
 *
 * Interleaving with a crash: a commit that is not flushed may vanish and its version be drawn again. Therefore nothing is applied
 * unless the commit record is flushed.
 *
 * Key locks use advisory locks with an objsubid of their own (1 and 2 are the SQL functions').
 */
#include "xact.h"

#include <poll.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/async.h"
#include "common/hashfn.h"
#include "exchange.h"
#include "guc.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "shmem.h"
#include "storage/lock.h"
#include "utils/memutils.h"

#define BELL_CHANNEL "reactions"
#define KEY_LOCK_SUBID 0x5258
#define BELL_LOCK_CLASS 1380013139	/* as in reactions._set_asleep */
#define BELL_LOCK_OBJECT 2
#define BELL_LOCK_SUBID 2		/* of the two-key SQL functions */

#define REMEMBERED_EVENTS 100	/* more are the agent's */

typedef struct RememberedEvent
{
	rx_event	event;
	int16		type_id;
	SubTransactionId subtransaction;
} RememberedEvent;

static RememberedEvent remembered[REMEMBERED_EVENTS];
static int	remembered_count = 0;
static bool too_many = false;
static bool apply_prepared = false;
static int	keys_locked = 0;

/* keys_locked when the subtransaction of a nest level began: its locks go with it. */
static int *keys_at_start = NULL;
static int	keys_at_start_levels = 0;

void
xact_remember(ReactionType *type, char scope, const OutboxEvent *events, size_t count)
{
	if (scope != SCOPE_REACTION)
		return;
	if (count > (size_t) (REMEMBERED_EVENTS - remembered_count))
	{
		too_many = true;
		return;
	}
	for (size_t i = 0; i < count; i++)
	{
		RememberedEvent *entry = &remembered[remembered_count++];

		entry->event.user_id = events[i].user_id;
		entry->event.entity_id = events[i].entity_id;
		entry->event.version = events[i].version;
		entry->event.set_mask = events[i].set_mask;
		entry->event.clear_mask = events[i].clear_mask;
		entry->type_id = type->type_id;
		entry->subtransaction = GetCurrentSubTransactionId();
	}
}

void
xact_lock_key(const ReactionType *type, int64 user_id, int64 entity_id)
{
	LOCKTAG		tag;
	int64		key[3] = {type->type_id, user_id, entity_id};
	uint64		hash = DatumGetUInt64(hash_any_extended((const unsigned char *) key, sizeof(key), 0));

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, KEY_LOCK_SUBID);
	if (LOCK_HELD_BY_ME(&tag, ExclusiveLock))
		return;
	if (keys_locked >= max_keys_per_transaction)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("transaction changes more than %d reactions", max_keys_per_transaction),
				 errhint("Commit in smaller transactions, or raise reactions.max_keys_per_transaction and "
						 "max_locks_per_transaction together.")));
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	keys_locked++;
}

/* Whether the agent sleeps: its lock is in the way of ours. */
static bool
agent_is_asleep(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, BELL_LOCK_CLASS, BELL_LOCK_OBJECT, BELL_LOCK_SUBID);
	if (LockAcquire(&tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ShareLock, false);
	return false;
}

/*
 * Waits for connections to Redis, no longer than the apply itself may take: statement_timeout is off by now, and locks are held.
 * Without a connection the agent applies. May raise on a cancel.
 */
static void
connect_for_apply(void)
{
	rx_exchange *exchange = rx_open_begin();

	PG_TRY();
	{
		(void) exchange_run_within(exchange, commit_timeout_ms);
	}
	PG_FINALLY();
	{
		rx_end(exchange);
	}
	PG_END_TRY();
}

/* Notes what is to be applied, a type at a time, in the order of versions, and connects to whom it is for. */
static void
prepare_apply(void)
{
	rx_event	events[REMEMBERED_EVENTS];
	bool		taken[REMEMBERED_EVENTS] = {false};

	if (!apply_at_commit || too_many || remembered_count == 0 || !guc_try_configure())
		return;
	for (int first = 0; first < remembered_count; first++)
	{
		ReactionType *type;
		size_t		count = 0;

		if (taken[first])
			continue;
		for (int i = first; i < remembered_count; i++)
		{
			if (remembered[i].type_id != remembered[first].type_id)
				continue;
			taken[i] = true;
			events[count++] = remembered[i].event;
		}
		type = catalog_cached_type(remembered[first].type_id);
		if (type != NULL && rx_apply_prepare(catalog_boundary(type), events, count) > 0)
			apply_prepared = true;
	}
	if (apply_prepared)
		connect_for_apply();
}

/* In the COMMIT callback: nothing here raises, allocates from PostgreSQL or waits beyond the deadline. */
static void
send_apply(void)
{
	instr_time	started;
	rx_ready	ready = RX_READY_NONE;

	INSTR_TIME_SET_CURRENT(started);
	for (;;)
	{
		rx_wait		wait = rx_apply_step(ready);
		struct pollfd socket;
		instr_time	now;
		int			left;
		int			happened;

		if (wait.action != RX_WAIT_READ && wait.action != RX_WAIT_WRITE)
			return;
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, started);
		left = commit_timeout_ms - (int) INSTR_TIME_GET_MILLISEC(now);
		if (left <= 0)
			break;
		socket.fd = wait.fd;
		socket.events = wait.action == RX_WAIT_READ ? POLLIN : POLLOUT;
		socket.revents = 0;
		happened = poll(&socket, 1, left);
		if (happened == 0)
			break;
		if (happened < 0 && errno != EINTR)
			break;
		ready = happened > 0 ? RX_READY_SOCKET : RX_READY_NONE;
	}
	rx_apply_abandon();
	shmem_count(COUNTER_APPLY_ABANDONED, 1);
}

static void
forget_transaction(void)
{
	remembered_count = 0;
	too_many = false;
	apply_prepared = false;
	keys_locked = 0;
	outbox_transaction_ended();
}

static void
on_transaction(XactEvent event, void *argument)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (!outbox_written_in_transaction())
				break;
			prepare_apply();
			if (agent_is_asleep())
				Async_Notify(BELL_CHANNEL, "");
			break;
		case XACT_EVENT_COMMIT:
			if (apply_prepared)
			{
				if (XactLastCommitEnd != InvalidXLogRecPtr && XactLastCommitEnd <= GetFlushRecPtr(NULL))
					send_apply();
				else
					rx_apply_abandon();
			}
			forget_transaction();
			break;
		case XACT_EVENT_ABORT:
			if (apply_prepared)
				rx_apply_abandon();
			outbox_rolled_back();
			forget_transaction();
			break;
		case XACT_EVENT_PREPARE:
			/* A NOTIFY is an error in a prepared transaction: the agent's heartbeat finds what it commits. It may yet be rolled back. */
			outbox_rolled_back();
			forget_transaction();
			break;
		default:
			break;
	}
}

static void
subtransaction_began(void)
{
	int			level = GetCurrentTransactionNestLevel();

	if (level >= keys_at_start_levels)
	{
		int			levels = Max(level * 2, 16);

		keys_at_start = keys_at_start == NULL
			? MemoryContextAlloc(TopMemoryContext, levels * sizeof(int))
			: repalloc(keys_at_start, levels * sizeof(int));
		keys_at_start_levels = levels;
	}
	keys_at_start[level] = keys_locked;
}

static void
subtransaction_rolled_back(void)
{
	int			level = GetCurrentTransactionNestLevel();

	/* One that began before the library was loaded has locked from the first key on. */
	keys_locked = level < keys_at_start_levels ? Min(keys_locked, keys_at_start[level]) : 0;
	outbox_rolled_back();
}

static void
on_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *argument)
{
	int			kept = 0;

	if (event == SUBXACT_EVENT_START_SUB)
		subtransaction_began();
	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (int i = 0; i < remembered_count; i++)
	{
		RememberedEvent entry = remembered[i];

		if (entry.subtransaction == mine)
		{
			if (event == SUBXACT_EVENT_ABORT_SUB)
				continue;
			entry.subtransaction = parent;
		}
		remembered[kept++] = entry;
	}
	remembered_count = kept;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		subtransaction_rolled_back();
}

void
xact_init(void)
{
	RegisterXactCallback(on_transaction, NULL);
	RegisterSubXactCallback(on_subtransaction, NULL);
}
