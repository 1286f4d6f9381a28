/*
 * Loading. Preloading is optional: it saves the loading of the library per connection and makes the counters shared.
 */
#include "capture.h"

#include "CReactionsBoundary.h"
#include "catalog.h"
#include "curl.h"
#include "fmgr.h"
#include "gone.h"
#include "guc.h"
#include "miscadmin.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "xact.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	/* pg_upgrade starts servers that nobody reacts on. */
	if (IsBinaryUpgrade)
		return;
	guc_init();
	shmem_init();
	catalog_init();
	capture_init();
	gone_init();
	xact_init();

	/* Once for all backends, instead of once in each. */
	if (process_shared_preload_libraries_in_progress)
	{
		rx_warm_up();
		if (guc_has_clickhouse())
			(void) curl_load();
	}
}
