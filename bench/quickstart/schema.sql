-- The application's table as Prisma makes it, attached once.
SET client_min_messages = warning;

DO $$
BEGIN
    IF to_regtype('"ReviewReactions"') IS NULL THEN
        CREATE TYPE "ReviewReactions" AS ENUM ('Like', 'Dislike', 'Laugh', 'Cry', 'Heart');
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS "ImageReaction" (
    "id" SERIAL NOT NULL,
    "imageId" INTEGER NOT NULL,
    "userId" INTEGER NOT NULL,
    "reaction" "ReviewReactions" NOT NULL,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT "ImageReaction_pkey" PRIMARY KEY ("id")
);
CREATE UNIQUE INDEX IF NOT EXISTS "ImageReaction_imageId_userId_reaction_key" ON "ImageReaction" ("imageId", "userId", "reaction");
CREATE INDEX IF NOT EXISTS "ImageReaction_userId_idx" ON "ImageReaction" ("userId");

SELECT reactions.attach(
    '"ImageReaction"', 'Image', user_column => 'userId', entity_column => 'imageId', kind_column => 'reaction',
    created_column => 'createdAt', unknown_kinds => 'skip', phase => 'switch_reads')
WHERE NOT EXISTS (SELECT FROM reactions.status() WHERE entity_type = 'Image' AND phase <> 'detached');
