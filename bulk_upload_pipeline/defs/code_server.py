"""Dagster's code server, with runs that start at once: `python -m bulk_upload_pipeline.defs.code_server api grpc ...`.

Dagster spawns a new interpreter for every run, which imports Dagster, pandas and pandera before the first row:
two seconds of a processor, most of the time of a small file. Here one process imports all of it when the code
server starts, and each run is a fork of that. It takes the arguments of the command `dagster`.
"""

import multiprocessing
import multiprocessing.forkserver
import runpy
from multiprocessing.context import BaseContext

READY = "bulk_upload_pipeline.defs.ready"
"""The module whose imports every run finds done."""


def main() -> None:
    """Serve as `dagster` does, but let runs be forked."""
    multiprocessing.set_forkserver_preload([READY])
    multiprocessing.forkserver.ensure_running()
    # Dagster asks for "spawn" by name and has no setting for it. Should it ask otherwise one day, runs start
    # as it says, and slower.
    vars(multiprocessing)["get_context"] = _forking_where_spawn_is_asked_for
    runpy.run_module("dagster", run_name="__main__")


_ask = multiprocessing.get_context


def _forking_where_spawn_is_asked_for(method: str | None = None) -> BaseContext:
    return _ask("forkserver" if method == "spawn" else method)


if __name__ == "__main__":
    main()
