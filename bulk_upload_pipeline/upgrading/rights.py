"""What the roles of a shared server may do with the tables: said again whenever a migration has made new ones."""

from __future__ import annotations

from bulk_upload_pipeline.tables import SCHEMA

LOADER, READER = "bulk_upload_loader", "bulk_upload_reader"

LOADED = ("mangalam_invoices", "daily_sales")
"""What a load writes in schema `public`, which may hold tables of others, too."""

GRANTS = f"""DO $$
DECLARE
    said text;
BEGIN
    FOR said IN
        WITH ours AS (
            SELECT c.oid, format('%I.%I', nspname, relname) AS name,
                relkind IN ('r', 'p') AND relname <> 'alembic_version' AS is_written
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_has_role(relowner, 'USAGE')
            AND (nspname = '{SCHEMA}' OR nspname = 'public' AND relname IN ('{"', '".join(LOADED)}'))
        ), rights AS (
            SELECT unnest(ARRAY['{LOADER}', '{READER}']) AS role, 'SELECT ON ' || name AS may FROM ours
            UNION ALL SELECT '{LOADER}', 'INSERT, UPDATE, DELETE ON ' || name FROM ours WHERE is_written
            -- An identity needs no grant, a serial does.
            UNION ALL SELECT '{LOADER}', format('USAGE ON SEQUENCE %I.%I', nspname, relname)
            FROM ours JOIN pg_depend ON refobjid = ours.oid AND classid = 'pg_class'::regclass
            AND deptype IN ('a', 'i') JOIN pg_class AS s ON s.oid = objid AND relkind = 'S'
            JOIN pg_namespace AS n ON n.oid = relnamespace WHERE is_written
        )
        SELECT format('GRANT %s TO %I', may, role) FROM rights JOIN pg_roles ON rolname = role
        WHERE has_schema_privilege(pg_roles.oid, '{SCHEMA}', 'USAGE')
    LOOP
        EXECUTE said;
    END LOOP;
END $$"""  # noqa: S608 - names of our own
"""Of those of our tables that whoever runs it owns. A role that is not let into our schema gets nothing: so it is on a
server that has no such roles."""
