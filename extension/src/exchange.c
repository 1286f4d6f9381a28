/*
 * Waiting for an outside server.
 *
 * Swift moves bytes without blocking and says what it waits for; this file waits, on the process latch and the socket together. Even
 * WaitLatchOrSocket can raise, therefore no Swift frame is on the stack meanwhile.
 */
#include "exchange.h"

#include "compat.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* The connection that is waited for most, and the set that waits for it; see wait_for_connection. */
static WaitEventSet *kept_set = NULL;
static uint64 kept_connection = 0;

/*
 * One wait for the latch, or for a connection to become readable. Setting up a wait costs several system calls, so the set of the
 * last connection is kept; the kernel forgets a socket in it when that is closed.
 */
static int
wait_for_connection(const rx_wait *wait, long timeout)
{
	WaitEvent	happened;

	if (kept_connection != wait->connection)
	{
		if (kept_set != NULL)
			FreeWaitEventSet(kept_set);
		/* Making one may fail, for want of a descriptor. */
		kept_set = NULL;
		kept_connection = 0;
		kept_set = CREATE_LASTING_WAIT_EVENT_SET(3);
		AddWaitEventToSet(kept_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		AddWaitEventToSet(kept_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		AddWaitEventToSet(kept_set, WL_SOCKET_READABLE, wait->fd, NULL, NULL);
		kept_connection = wait->connection;
	}
	if (WaitEventSetWait(kept_set, timeout, &happened, 1, PG_WAIT_EXTENSION) == 0)
		return WL_TIMEOUT;
	return happened.events;
}

/* Waits as asked; returns what ended it. */
static rx_ready
wait_for(const rx_wait *wait)
{
	int			events = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT;
	long		timeout = Max(wait->timeout_ms, 0);
	pgsocket	socket = PGINVALID_SOCKET;
	TimestampTz deadline;

	if (wait->action == RX_WAIT_READ || wait->action == RX_WAIT_WRITE)
	{
		events |= wait->action == RX_WAIT_READ ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;
		socket = wait->fd;
	}
	deadline = GetCurrentTimestamp() + timeout * INT64CONST(1000);
	for (;;)
	{
		int			happened = wait->action == RX_WAIT_READ && wait->connection != 0
			? wait_for_connection(wait, timeout)
			: WaitLatchOrSocket(MyLatch, events, socket, timeout, PG_WAIT_EXTENSION);

		if (happened & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		if (happened & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE))
			return RX_READY_SOCKET;

		/* The latch alone is somebody else's business: wait on for what is left. */
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if ((happened & WL_TIMEOUT) || timeout <= 0)
			return RX_READY_TIMEOUT;
	}
}

bool
exchange_run(rx_exchange *exchange, TruthGiver giver, void *context, rx_error *error)
{
	rx_ready	ready = RX_READY_NONE;

	for (;;)
	{
		rx_wait		wait = rx_step(exchange, ready);

		ready = RX_READY_NONE;
		switch ((rx_action) wait.action)
		{
			case RX_DONE:
				return true;
			case RX_FAILED:
				rx_failure(exchange, error);
				return false;
			case RX_WAIT_READ:
			case RX_WAIT_WRITE:
			case RX_WAIT_TIMER:
				ready = wait_for(&wait);
				break;
			case RX_WANT_TRUTH:
				if (!giver(exchange, context))
					return false;
				break;
		}
		CHECK_FOR_INTERRUPTS();
	}
}

bool
exchange_run_within(rx_exchange *exchange, int limit_ms)
{
	TimestampTz deadline = GetCurrentTimestamp() + limit_ms * INT64CONST(1000);
	rx_ready	ready = RX_READY_NONE;

	for (;;)
	{
		rx_wait		wait = rx_step(exchange, ready);
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (wait.action != RX_WAIT_READ && wait.action != RX_WAIT_WRITE && wait.action != RX_WAIT_TIMER)
			return wait.action == RX_DONE;
		if (left <= 0)
			return false;
		wait.timeout_ms = Min(wait.timeout_ms, (int) left);
		ready = wait_for(&wait);
	}
}
