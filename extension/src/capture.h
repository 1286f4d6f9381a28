/* Capture of attached tables. */
#ifndef PG_REACTIONS_CAPTURE_H
#define PG_REACTIONS_CAPTURE_H

#include "compat.h"

extern void capture_init(void);

/* Statements that are run from here, though not those of triggers that they fire, pass the table's triggers without an event. */
extern void capture_off(void);
extern void capture_on(void);

#endif							/* PG_REACTIONS_CAPTURE_H */
