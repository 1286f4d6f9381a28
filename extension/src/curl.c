/*
 * libcurl, loaded when it is first used.
 *
 * With the thirty libraries that it depends on it takes longer to load than everything else together, and each new connection that
 * loads pg_reactions would wait for it; but only a read that neither Redis nor the table can answer asks ClickHouse. So the library
 * is not linked: these functions stand for those of the same names and hand over. Without a libcurl there is no handle, which the
 * caller of curl_easy_init reports.
 *
 * A variable argument of libcurl's is a long, a pointer or a curl_off_t: on the platforms that Swift runs on they are passed alike.
 */
#include "postgres.h"

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>
#include <dlfcn.h>

#include "curl.h"

StaticAssertDecl(sizeof(long) == sizeof(void *) && sizeof(curl_off_t) == sizeof(void *), "a variable argument has one size");

#define LIBRARY "libcurl.so.4"

#define FUNCTIONS(X) \
	X(CURL *, curl_easy_init, (void)) \
	X(CURLcode, curl_easy_setopt, (CURL *, CURLoption, ...)) \
	X(CURLcode, curl_easy_getinfo, (CURL *, CURLINFO, ...)) \
	X(void, curl_easy_cleanup, (CURL *)) \
	X(const char *, curl_easy_strerror, (CURLcode)) \
	X(CURLM *, curl_multi_init, (void)) \
	X(CURLMcode, curl_multi_setopt, (CURLM *, CURLMoption, ...)) \
	X(CURLMcode, curl_multi_add_handle, (CURLM *, CURL *)) \
	X(CURLMcode, curl_multi_remove_handle, (CURLM *, CURL *)) \
	X(CURLMcode, curl_multi_socket_action, (CURLM *, curl_socket_t, int, int *)) \
	X(CURLMsg *, curl_multi_info_read, (CURLM *, int *)) \
	X(CURLMcode, curl_multi_timeout, (CURLM *, long *)) \
	X(CURLMcode, curl_multi_cleanup, (CURLM *)) \
	X(struct curl_slist *, curl_slist_append, (struct curl_slist *, const char *)) \
	X(void, curl_slist_free_all, (struct curl_slist *))

#define MEMBER(type, name, arguments) type (*name) arguments;
static struct
{
	FUNCTIONS(MEMBER)
}			loaded;
static bool is_loaded = false;

bool
curl_load(void)
{
	void	   *library;
	bool		complete = true;

	if (is_loaded)
		return true;
	library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL)
		return false;
#define FIND(type, name, arguments) \
	*(void **) &loaded.name = dlsym(library, #name); \
	complete = complete && loaded.name != NULL;
	FUNCTIONS(FIND)
	is_loaded = complete;
	return complete;
}

#undef curl_easy_setopt
#undef curl_easy_getinfo
#undef curl_multi_setopt

CURL *
curl_easy_init(void)
{
	return curl_load() ? loaded.curl_easy_init() : NULL;
}

CURLM *
curl_multi_init(void)
{
	return curl_load() ? loaded.curl_multi_init() : NULL;
}

/* What follows is called with a handle only, or in order to make one. */

struct curl_slist *
curl_slist_append(struct curl_slist *list, const char *text)
{
	return loaded.curl_slist_append(list, text);
}

void
curl_slist_free_all(struct curl_slist *list)
{
	if (list != NULL)
		loaded.curl_slist_free_all(list);
}

#define HAND_OVER(name, handle, option) \
	do { \
		va_list		arguments; \
		void	   *argument; \
		va_start(arguments, option); \
		argument = va_arg(arguments, void *); \
		va_end(arguments); \
		return loaded.name(handle, option, argument); \
	} while (0)

CURLcode
curl_easy_setopt(CURL *handle, CURLoption option, ...)
{
	HAND_OVER(curl_easy_setopt, handle, option);
}

CURLcode
curl_easy_getinfo(CURL *handle, CURLINFO option, ...)
{
	HAND_OVER(curl_easy_getinfo, handle, option);
}

CURLMcode
curl_multi_setopt(CURLM *handle, CURLMoption option, ...)
{
	HAND_OVER(curl_multi_setopt, handle, option);
}

void
curl_easy_cleanup(CURL *handle)
{
	if (handle != NULL)
		loaded.curl_easy_cleanup(handle);
}

const char *
curl_easy_strerror(CURLcode code)
{
	return loaded.curl_easy_strerror(code);
}

CURLMcode
curl_multi_add_handle(CURLM *multi, CURL *handle)
{
	return loaded.curl_multi_add_handle(multi, handle);
}

CURLMcode
curl_multi_remove_handle(CURLM *multi, CURL *handle)
{
	return loaded.curl_multi_remove_handle(multi, handle);
}

CURLMcode
curl_multi_socket_action(CURLM *multi, curl_socket_t socket, int events, int *running)
{
	return loaded.curl_multi_socket_action(multi, socket, events, running);
}

CURLMsg *
curl_multi_info_read(CURLM *multi, int *left)
{
	return loaded.curl_multi_info_read(multi, left);
}

CURLMcode
curl_multi_timeout(CURLM *multi, long *milliseconds)
{
	return loaded.curl_multi_timeout(multi, milliseconds);
}

CURLMcode
curl_multi_cleanup(CURLM *multi)
{
	return multi == NULL ? CURLM_OK : loaded.curl_multi_cleanup(multi);
}
