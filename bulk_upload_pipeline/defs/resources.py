"""The line as a resource: where the files are and where the rows go."""

import dagster as dg

from bulk_upload_pipeline.exceptions import SettingInvalidError
from bulk_upload_pipeline.line import Line
from bulk_upload_pipeline.settings import DATABASE_URL, read_settings


@dg.resource(description="Where the files are and where the rows go, as the environment says.")
def line_resource(_: dg.InitResourceContext) -> Line:
    """Build the line in the process that runs a step or a sensor; nothing connects before the first query."""
    from bulk_upload_pipeline.database import make_engine

    settings = read_settings()
    if settings.database_url is None:
        raise SettingInvalidError(
            DATABASE_URL, "unset", "the URL of a PostgreSQL server (`bulk-upload up` sets it by itself)"
        )
    settings.home.make()
    return Line(settings, make_engine(settings.database_url))
