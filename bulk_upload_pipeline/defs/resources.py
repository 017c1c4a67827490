"""The line as a resource: where the files are and where the rows go."""

from collections.abc import Generator

import dagster as dg

from bulk_upload_pipeline import storage
from bulk_upload_pipeline.exceptions import SettingInvalidError
from bulk_upload_pipeline.settings import DATABASE_URL, read_settings
from bulk_upload_pipeline.workplace import Line

STATEMENT_PATIENCE_MS = 60_000
CONNECTION_AGE_S = 600


@dg.resource(description="Where the files are and where the rows go, as the environment says.")
def line_resource(context: dg.InitResourceContext) -> Generator[Line]:
    """Build the line in the process that runs a step or a sensor; a run proves by it that it lives."""
    from bulk_upload_pipeline.database import make_engine

    settings = read_settings()
    if settings.database_url is None:
        raise SettingInvalidError(
            DATABASE_URL, "unset", "the URL of a PostgreSQL server (`bulk-upload up` sets it by itself)"
        )
    settings.home.make()
    engine = make_engine(settings.database_url)
    try:
        with storage.opened(settings) as at_hand:
            yield from _alive(context, Line(at_hand, engine))
    finally:
        # Each tick of a sensor has a line of its own, whose connections would wait for the garbage collector.
        engine.dispose()


def living(line: Line) -> dg.ResourceDefinition:
    """Return a line that exists already as the resource of one run, which proves by it that it lives."""
    return dg.ResourceDefinition(lambda context: _alive(context, line))


def _alive(context: dg.InitResourceContext, line: Line) -> Generator[Line]:
    from bulk_upload_pipeline.liveness import alive

    if context.run is None:  # a sensor, which is no run
        yield line
        return
    assert context.instance is not None
    # Dagster's own storage, which Kubernetes has, opens a connection for every event; a run keeps one open instead,
    # as the webserver does. That is most of what the events of a small file cost. `HeldStorage` limits statements only.
    context.instance.optimize_for_webserver(STATEMENT_PATIENCE_MS, CONNECTION_AGE_S, max_overflow=4)
    with alive(line.engine, context.run.run_id):
        yield line
