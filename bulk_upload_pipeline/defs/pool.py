"""A worker of the pool: `celery --app bulk_upload_pipeline.defs.pool worker` takes runs that Dagster sends to Redis.

Each worker executes whole runs, in processes that have imported everything before. One that is killed loses
its run, which the daemon notices and starts again elsewhere; the chunk ledger says what is loaded already.
"""

from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

from bulk_upload_pipeline.exceptions import SettingInvalidError
from bulk_upload_pipeline.settings import BROKER_URL, read_settings

REDELIVERED_AFTER_S = 12 * 3600
"""Redis gives a message to another worker when the first had it for so long without starting it."""

_WORKER = {
    # A run is acknowledged when it starts, never when it ends: Celery would start it a second time, which
    # Dagster refuses, and the run of the killed worker would look alive for ever.
    "task_acks_late": False,
    # Who is busy takes nothing in advance that an idle one could begin.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "broker_transport_options": {"visibility_timeout": REDELIVERED_AFTER_S},
    "broker_connection_retry_on_startup": True,
    # The process of a worker is replaced now and then, so that no library's leak grows for weeks.
    "worker_max_tasks_per_child": 200,
}


def _broker() -> str:
    url = read_settings().broker_url
    if url is None:
        raise SettingInvalidError(
            BROKER_URL, "unset", "the URL of the pool's Redis, such as redis://redis:6379/0"
        )
    return url


app = make_app({"broker": _broker(), "backend": _broker(), "config_source": _WORKER})
execute_job = create_execute_job_task(app)
resume_job = create_resume_job_task(app)
