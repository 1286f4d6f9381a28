/*
 * Settings of the extension.
 *
 * Endpoints are for superusers; passwords are not settings at all (anyone could SHOW them) but lines of a file that only the server
 * can read. The Swift half is told when something changed: an assign hook raises a flag, a SIGHUP is noticed by its time.
 */
#include "guc.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "CReactionsBoundary.h"
#include "storage/fd.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

int			on_unavailable = ON_UNAVAILABLE_ERROR;
int			max_keys_per_transaction = 1000;
int			commit_timeout_ms = 20;
bool		apply_at_commit = true;
double		compare_share = 0.01;

static char *redis_url;
static char *redis_user;
static char *redis_sentinel_user;
static char *key_prefix;
static char *clickhouse_url;
static char *clickhouse_database;
static char *clickhouse_user;
static char *secrets_file;
static int	redis_connect_timeout_ms = 200;
static int	redis_timeout_ms = 500;
static int	clickhouse_timeout_ms = 5000;
static int	fill_wait_ms = 50;
static int	hgetall_threshold = 0;

/* Whether Swift has been told of the present settings, and the configuration reload that it was told of. */
static bool configured = false;
static TimestampTz configured_at_reload = 0;

static const struct config_enum_entry on_unavailable_options[] = {
	{"error", ON_UNAVAILABLE_ERROR, false},
	{"null", ON_UNAVAILABLE_NULL, false},
	{NULL, 0, false}
};

static void
assign_string(const char *newval, void *extra)
{
	configured = false;
}

static void
assign_int(int newval, void *extra)
{
	configured = false;
}

static void
define_endpoint(const char *name, char **variable, const char *initial, const char *short_text, const char *long_text)
{
	DefineCustomStringVariable(name, short_text, long_text, variable, initial, PGC_SUSET, 0, NULL, assign_string, NULL);
}

static void
define_timeout(const char *name, int *variable, int initial, GucContext context, const char *short_text, const char *long_text)
{
	DefineCustomIntVariable(name, short_text, long_text, variable, initial, 1, 600000, context, GUC_UNIT_MS,
							NULL, assign_int, NULL);
}

void
guc_init(void)
{
	define_endpoint("reactions.redis_url", &redis_url, "",
					"Where Redis is.",
					"redis://host:port/db; redis://host:port,host:port for a cluster; redis-sentinel://host:port,host:port/master?db=0; or "
					"unix:///path/of/socket?db=0. Empty: reads fail, writes go to the outbox only.");
	define_endpoint("reactions.redis_user", &redis_user, "",
					"ACL user for Redis.",
					"Empty: the default user. The password is the line redis_password=... of reactions.secrets_file.");
	define_endpoint("reactions.redis_sentinel_user", &redis_sentinel_user, "",
					"ACL user for the sentinels.",
					"Empty: the default user. The password is the line redis_sentinel_password=... of reactions.secrets_file; without "
					"it the sentinels are asked without logging in.");
	define_endpoint("reactions.key_prefix", &key_prefix, "",
					"Put before every Redis key.",
					"Two databases that share a Redis need different prefixes. The agent reads this setting from the database; "
					"set it with ALTER DATABASE, never per session.");
	define_endpoint("reactions.clickhouse_url", &clickhouse_url, "",
					"Where ClickHouse's HTTP interface is.",
					"http://host:8123. Asked when Redis misses and no table answers for the entity type, and for what Redis never has.");
	define_endpoint("reactions.clickhouse_database", &clickhouse_database, "reactions",
					"Database of the mirror's tables in ClickHouse.", NULL);
	define_endpoint("reactions.clickhouse_user", &clickhouse_user, "",
					"User for ClickHouse.",
					"Empty: default. The password is the line clickhouse_password=... of reactions.secrets_file.");
	define_endpoint("reactions.secrets_file", &secrets_file, "",
					"File with redis_password=, redis_sentinel_password= and clickhouse_password= lines.",
					"Must belong to the server's user or root and be readable by no one else (mode 0600). Reread on reload.");

	define_timeout("reactions.redis_connect_timeout", &redis_connect_timeout_ms, 200, PGC_USERSET,
				   "Longest wait for a connection to Redis.", NULL);
	define_timeout("reactions.redis_timeout", &redis_timeout_ms, 500, PGC_USERSET,
				   "Longest wait for a reply of Redis.", "After it the connection is closed and the read is unknown.");
	define_timeout("reactions.clickhouse_timeout", &clickhouse_timeout_ms, 5000, PGC_USERSET,
				   "Longest wait for an answer of ClickHouse.", NULL);
	define_timeout("reactions.fill_wait", &fill_wait_ms, 50, PGC_USERSET,
				   "How long a cache miss waits for whoever is filling in the same: another session, or the agent.",
				   "After it the truth is asked without filling.");

	DefineCustomIntVariable("reactions.commit_timeout",
							"Longest time that applying to Redis may add to a commit.",
							"What is not applied by then is applied by the agent.",
							&commit_timeout_ms, 20, 1, 20, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("reactions.apply_at_commit",
							 "Whether the committing session applies its changes to Redis.",
							 "If off, only the agent does, some milliseconds later.",
							 &apply_at_commit, true, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("reactions.on_unavailable",
							 "What a read does when it cannot know: raise an error or answer null.",
							 "It never answers 0.",
							 &on_unavailable, ON_UNAVAILABLE_ERROR, on_unavailable_options, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("reactions.max_keys_per_transaction",
							"How many different reactions one transaction may change through the functions.",
							"Each takes an entry of the lock table until the transaction ends.",
							&max_keys_per_transaction, 1000, 1, 1000000, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("reactions.hgetall_threshold",
							"From how many ids on a read fetches the user's whole map instead of single fields.",
							"0 is never, the fastest where Redis keeps the maps as hash tables, as it does by default. With a "
							"hash-max-listpack-value above 100 small maps are listpacks, several times smaller, and HMGET searches "
							"them from the start for each field: the whole map is cheaper from 40 ids on.",
							&hgetall_threshold, 0, 0, 1000000, PGC_USERSET, 0, NULL, assign_int, NULL);

	DefineCustomRealVariable("reactions.compare_share",
							 "Which share of the reads of a type in phase dual_read is compared with the answer by way of Redis.",
							 "A compared read takes two more round trips to Redis.",
							 &compare_share, 0.01, 0, 1, PGC_USERSET, 0, NULL, NULL, NULL);

	MarkGUCPrefixReserved("reactions");
}

/* Value of the line `key=value` of the secrets file's text, palloc'd; "" if there is none. */
static char *
secret_line(const char *text, const char *key)
{
	size_t		key_length = strlen(key);

	for (const char *line = text; *line != '\0';)
	{
		const char *end = strchrnul(line, '\n');

		if (strncmp(line, key, key_length) == 0 && line[key_length] == '=')
		{
			const char *value = line + key_length + 1;
			size_t		length = end - value;

			if (length > 0 && value[length - 1] == '\r')
				length--;
			return pnstrdup(value, length);
		}
		line = *end == '\0' ? end : end + 1;
	}
	return "";
}

/* The secrets file's text, palloc'd; "" if the setting is empty. Below ERROR a failure is NULL. */
static char *
read_secrets(int level)
{
	const size_t limit = 64 * 1024;
	struct stat status;
	char	   *text;
	int			fd;
	ssize_t		length = -1;

	if (secrets_file == NULL || secrets_file[0] == '\0')
		return "";
	fd = OpenTransientFile(secrets_file, O_RDONLY | PG_BINARY);
	if (fd < 0 || fstat(fd, &status) != 0)
	{
		ereport(level,
				(errcode_for_file_access(),
				 errmsg("could not open reactions.secrets_file \"%s\": %m", secrets_file)));
		if (fd >= 0)
			CloseTransientFile(fd);
		return NULL;
	}
	if (!S_ISREG(status.st_mode) || (status.st_uid != geteuid() && status.st_uid != 0) ||
		(status.st_mode & (S_IRWXG | S_IRWXO)) != 0)
	{
		ereport(level,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("reactions.secrets_file \"%s\" can be read by others", secrets_file),
				 errhint("Make it a regular file of the server's user with mode 0600.")));
		CloseTransientFile(fd);
		return NULL;
	}
	text = palloc(limit + 1);
	length = read(fd, text, limit);
	if (length < 0)
		ereport(level,
				(errcode_for_file_access(),
				 errmsg("could not read reactions.secrets_file \"%s\": %m", secrets_file)));
	CloseTransientFile(fd);
	if (length < 0)
		return NULL;
	text[length] = '\0';
	return text;
}

static bool
configure(int level)
{
	rx_settings settings;
	char	   *secrets;

	if (configured && configured_at_reload == PgReloadTime)
		return true;

	secrets = read_secrets(level);
	if (secrets == NULL)
		return false;
	memset(&settings, 0, sizeof(settings));
	settings.redis_url = redis_url;
	settings.redis_user = redis_user;
	settings.redis_password = secret_line(secrets, "redis_password");
	settings.redis_sentinel_user = redis_sentinel_user;
	settings.redis_sentinel_password = secret_line(secrets, "redis_sentinel_password");
	settings.key_prefix = key_prefix;
	settings.clickhouse_url = clickhouse_url;
	settings.clickhouse_database = clickhouse_database;
	settings.clickhouse_user = clickhouse_user;
	settings.clickhouse_password = secret_line(secrets, "clickhouse_password");
	settings.redis_connect_timeout_ms = redis_connect_timeout_ms;
	settings.redis_timeout_ms = redis_timeout_ms;
	settings.clickhouse_timeout_ms = clickhouse_timeout_ms;
	settings.fill_wait_ms = fill_wait_ms;
	settings.hgetall_threshold = hgetall_threshold;
	rx_configure(&settings);
	configured = true;
	configured_at_reload = PgReloadTime;
	return true;
}

bool
guc_has_clickhouse(void)
{
	return clickhouse_url != NULL && clickhouse_url[0] != '\0';
}

void
guc_configure(void)
{
	(void) configure(ERROR);
}

bool
guc_try_configure(void)
{
	return configure(DEBUG1);
}
