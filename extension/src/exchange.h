/* Runs an exchange with an outside server: the wait is here, in C. */
#ifndef PG_REACTIONS_EXCHANGE_H
#define PG_REACTIONS_EXCHANGE_H

#include "compat.h"

#include "CReactionsBoundary.h"

/* Answers RX_WANT_TRUTH; false if it cannot, and the exchange is to be given up. */
typedef bool (*TruthGiver) (rx_exchange *exchange, void *context);

/*
 * Steps the exchange until it is done (true) or has failed (false, and `error` is filled unless the giver gave up). Waits on the latch and the socket, so a
 * cancel, a termination or a statement time-out acts at once by raising; the caller ends the exchange in PG_FINALLY.
 */
extern bool exchange_run(rx_exchange *exchange, TruthGiver giver, void *context, rx_error *error);

/* The same for an exchange that wants no truth, given up after `limit_ms`. */
extern bool exchange_run_within(rx_exchange *exchange, int limit_ms);

#endif							/* PG_REACTIONS_EXCHANGE_H */
