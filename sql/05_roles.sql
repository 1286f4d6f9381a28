-- Roles are of the whole cluster and outlive the extension; nothing is granted to PUBLIC. ---------------------------------------

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['reactions_reader', 'reactions_writer', 'reactions_admin'] LOOP
        BEGIN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION
            -- unique_violation: another database is creating the extension at this moment
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END
$$;

