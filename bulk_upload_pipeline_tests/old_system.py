"""A database of the system that this one replaces, as it was found in production."""

from __future__ import annotations

from bulk_upload_pipeline import contract

ROWS = 21_552
ONCE, TWICE_UPLOADED, TWICE_IN_A_FILE = 20_000, 500, 276
"""Lines with a key of their own; lines without product and SKU that two uploads wrote; pairs of one upload."""

TABLES = f"""
CREATE TABLE public.mangalam_invoices (
    id serial PRIMARY KEY,
    {", ".join(f"{column.name} {contract.sql_type(column)}" for column in contract.COLUMNS)},
    upload_batch_id varchar(100),
    row_number integer,
    created_at timestamp DEFAULT now(),
    updated_at timestamp DEFAULT now(),
    UNIQUE (invoice_number, product_id, sku)
);
CREATE INDEX idx_mangalam_invoices_invoice_number ON public.mangalam_invoices (invoice_number);
CREATE INDEX idx_mangalam_invoices_invoice_date ON public.mangalam_invoices (invoice_date);
CREATE INDEX idx_mangalam_invoices_customer ON public.mangalam_invoices (customer_name, customer_id);
CREATE INDEX idx_mangalam_invoices_item ON public.mangalam_invoices (item_name, sku);
CREATE INDEX idx_mangalam_invoices_batch ON public.mangalam_invoices (upload_batch_id);
CREATE INDEX idx_mangalam_invoices_created ON public.mangalam_invoices (created_at DESC);
CREATE VIEW public.invoice_summary AS
    SELECT invoice_number, invoice_date, customer_name, count(*) AS items, sum(quantity) AS quantity,
        sum(item_total) AS total, min(created_at) AS first_upload, max(created_at) AS last_upload
    FROM public.mangalam_invoices GROUP BY invoice_number, invoice_date, customer_name;

CREATE SCHEMA bulk_upload;
CREATE TYPE bulk_upload.error_severity AS ENUM ('low', 'medium', 'high', 'critical');
CREATE TABLE bulk_upload.upload_jobs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), file_name text);
CREATE TABLE bulk_upload.processing_errors (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    upload_job_id uuid NOT NULL REFERENCES bulk_upload.upload_jobs (id),
    row_number integer NOT NULL,
    column_name varchar(100),
    chunk_id uuid,
    severity bulk_upload.error_severity NOT NULL DEFAULT 'medium',
    error_code varchar(50),
    error_message text,
    error_context jsonb,
    raw_data text,
    processed_data jsonb,
    is_resolved boolean DEFAULT false,
    resolved_by varchar(100),
    resolved_at timestamp,
    resolution_notes text,
    occurred_at timestamp DEFAULT now()
);
"""

OF_OTHERS = """
ALTER TABLE public.mangalam_invoices ADD COLUMN "note of the warehouse" text;
CREATE TABLE public.audit (noted text);
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.audit VALUES (TG_OP); RETURN NEW; END $$;
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE TRIGGER "audit, 100%" AFTER INSERT OR UPDATE ON public.mangalam_invoices
    FOR EACH ROW EXECUTE FUNCTION public.note();
CREATE TRIGGER touched BEFORE UPDATE ON public.mangalam_invoices FOR EACH ROW EXECUTE FUNCTION public.touch();
ALTER TABLE public.mangalam_invoices ENABLE ALWAYS TRIGGER touched;
CREATE TRIGGER switched_off BEFORE UPDATE ON public.mangalam_invoices
    FOR EACH ROW EXECUTE FUNCTION public.touch();
ALTER TABLE public.mangalam_invoices DISABLE TRIGGER switched_off;
"""

# Every line of the export has a usage unit or a subtotal, or neither: the old system lost both.
_LINE = """
INSERT INTO public.mangalam_invoices (invoice_number, invoice_date, customer_name, quantity, item_price,
    item_total, item_name, product_id, sku, upload_batch_id, row_number, created_at, updated_at)
SELECT 'INV-' || lpad((i / 3)::text, 6, '0'), date '2024-01-01' + (i / 100), 'Sharma Sweets', 4, 12.5, 50,
    'Kaju Katli', {product}, {sku}, '{batch}', i, timestamp '2025-01-02 03:04:05', timestamp '2025-01-02 03:04:05'
FROM generate_series({first}, {last}) AS i
"""
_PAIRED = ONCE + TWICE_UPLOADED
FILLED = (
    _LINE.format(product="'P-' || i", sku="'S-' || i % 97", batch="old-1", first=1, last=ONCE),
    _LINE.format(product="NULL", sku="NULL", batch="old-1", first=ONCE + 1, last=_PAIRED).replace(
        "'INV-' || lpad((i / 3)::text, 6, '0')", "'NOSKU-' || i"
    ),
    _LINE.format(
        product="NULL", sku="'S-1'", batch="old-1", first=_PAIRED + 1, last=_PAIRED + 2 * TWICE_IN_A_FILE
    ).replace("'INV-' || lpad((i / 3)::text, 6, '0')", "'PAIR-' || (i - 1) / 2"),
    _LINE.format(product="NULL", sku="NULL", batch="old-2", first=ONCE + 1, last=_PAIRED).replace(
        "'INV-' || lpad((i / 3)::text, 6, '0')", "'NOSKU-' || i"
    ),
    "INSERT INTO bulk_upload.upload_jobs VALUES ('6f1e0d3c-0000-4000-8000-000000000001', 'march.csv')",
    """INSERT INTO bulk_upload.processing_errors
        (upload_job_id, row_number, severity, error_code, error_message, occurred_at)
    SELECT '6f1e0d3c-0000-4000-8000-000000000001', i, 'critical', 'DB_ERROR', 'it failed', '2025-03-01'
    FROM generate_series(1, 3) AS i""",
)

_TITLES = ", ".join(
    f'{value} AS "{column.title}"'
    for column in contract.COLUMNS
    for value in [
        {
            "usage_unit": "CASE WHEN id % 4 = 0 THEN 'pcs' END",
            "subtotal": "CASE WHEN id % 4 = 1 THEN 50 END",
        }.get(column.name, column.name)
    ]
)
EXPORT = f"COPY (SELECT {_TITLES} FROM public.mangalam_invoices WHERE upload_batch_id = 'old-1' ORDER BY id) "
EXPORT += "TO STDOUT (FORMAT csv, HEADER)"
"""The file that the first upload had, written from what became of it."""


def build(connection):
    """Make the old tables and their rows; what others put on them comes last, and so saw no row."""
    for statement in (TABLES, *FILLED, OF_OTHERS):
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
