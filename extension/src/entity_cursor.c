/*
 * A cursor is a place, and a checksum over it and everything that it belongs to, in hexadecimal digits. The checksum is no secret: it
 * tells a mistake from a cursor. Whoever makes one up gets a page that he could have had anyway.
 */
#include "entity_cursor.h"

#include "common/hashfn.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"

#define CURSOR_FORMAT 1

/* In the order of bytes of the network. */
typedef struct pg_attribute_packed() PackedPlace
{
	uint8		format;
	uint8		order;
	uint64		number;			/* version, or the table's time */
	uint64		user_id;
	uint32		time;
	uint64		seen_batch;
	uint32		seen_part;
	uint64		checksum;
} PackedPlace;

static uint64
checksum(const ReactionType *type, int64 entity_id, int32 mask, const PackedPlace *packed)
{
	uint64		hash = catalog_system_identifier();

	hash = hash_bytes_extended((const unsigned char *) type->name, strlen(type->name), hash);
	hash = hash_bytes_extended((const unsigned char *) &entity_id, sizeof(entity_id), hash);
	hash = hash_bytes_extended((const unsigned char *) &mask, sizeof(mask), hash);
	return hash_bytes_extended((const unsigned char *) packed, offsetof(PackedPlace, checksum), hash);
}

char *
entity_cursor_text(const ReactionType *type, int64 entity_id, int32 mask, const ReactorPlace *place)
{
	PackedPlace packed = {
		CURSOR_FORMAT, place->order,
		pg_hton64(place->order == ORDER_BY_VERSION ? (uint64) place->position.version : (uint64) place->created_at),
		pg_hton64((uint64) place->position.user_id), pg_hton32(place->position.time),
		pg_hton64((uint64) place->seen_batch), pg_hton32((uint32) place->seen_part)
	};
	char	   *text = palloc(2 * sizeof(packed) + 1);

	packed.checksum = pg_hton64(checksum(type, entity_id, mask, &packed));
	text[hex_encode((const char *) &packed, sizeof(packed), text)] = '\0';
	return text;
}

static bool
unpack(const char *text, PackedPlace *packed)
{
	return strlen(text) == 2 * sizeof(*packed) && strspn(text, "0123456789abcdef") == 2 * sizeof(*packed) &&
		hex_decode(text, 2 * sizeof(*packed), (char *) packed) == sizeof(*packed);
}

ReactorPlace
entity_cursor_place(const ReactionType *type, int64 entity_id, int32 mask, const char *text)
{
	PackedPlace packed;
	ReactorPlace place = {0};

	if (!unpack(text, &packed) || packed.format != CURSOR_FORMAT ||
		(packed.order != ORDER_BY_VERSION && packed.order != ORDER_BY_TABLE) ||
		pg_ntoh64(packed.checksum) != checksum(type, entity_id, mask, &packed))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the cursor is none of these reactions"),
				 errdetail("A cursor belongs to an entity type, an entity, a kind and a database."),
				 errhint("Pass the cursor of the last row of the page before as it is, or null for the first page.")));
	place.order = packed.order;
	place.position.user_id = (int64) pg_ntoh64(packed.user_id);
	place.position.time = pg_ntoh32(packed.time);
	place.seen_batch = (int64) pg_ntoh64(packed.seen_batch);
	place.seen_part = (int32) pg_ntoh32(packed.seen_part);
	if (place.order == ORDER_BY_VERSION)
		place.position.version = (int64) pg_ntoh64(packed.number);
	else
		place.created_at = (TimestampTz) pg_ntoh64(packed.number);
	return place;
}
