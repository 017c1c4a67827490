from bulk_upload_pipeline_tests.world import *
import sys; sys.path.insert(0,'/tmp')
from probe import show
import dagster as dg
def test_x(tmp_path, database_url):
    with line_at(tmp_path / "home", database_url, chunk_rows=7) as line, dg.DagsterInstance.ephemeral() as instance:
        batch_id = drop(line, "good.csv", csv_of(good_row(n) for n in range(20)))
        r = run(line, batch_id, instance); show(r); print(receipt(line,batch_id))
def test_y(tmp_path, database_url):
    with line_at(tmp_path / "home", database_url, chunk_rows=7) as line, dg.DagsterInstance.ephemeral() as instance:
        batch_id = drop(line, "good.csv", csv_of([good_row(1, Month="Dec"), good_row(2)], (*HEADER, "Month")))
        r = run(line, batch_id, instance); show(r); print(receipt(line,batch_id))
def test_z(tmp_path, database_url):
    with line_at(tmp_path / "home", database_url, chunk_rows=7) as line, dg.DagsterInstance.ephemeral() as instance:
        batch_id = drop(line, "good.csv", csv_of([good_row(1), good_row(2)]))
        (line.home.inbox/"good.csv").write_text("x")
        r = run(line, batch_id, instance); show(r); print(receipt(line,batch_id))
