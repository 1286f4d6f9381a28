/* What _PG_init starts. */
#ifndef PG_REACTIONS_MODULE_H
#define PG_REACTIONS_MODULE_H

#include "compat.h"

extern void capture_init(void);

#endif							/* PG_REACTIONS_MODULE_H */
