"""Dagster's UI behind the guard: `python -m bulk_upload_pipeline.defs.ui`, which `bulk-upload up` starts."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any, NoReturn

import click
import dagster as dg
import uvicorn
from graphql import GraphQLError, GraphQLSchema
from starlette.types import ASGIApp

from bulk_upload_pipeline.guard import Guard, Lock, by_port
from bulk_upload_pipeline.settings import read_settings, unguarded

STATEMENT_SECONDS = 15
CONNECTION_SECONDS = 3_600
MOST_CONNECTIONS = 20
FAREWELL_SECONDS = 5
LIVE_MILLISECONDS = 2_000


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=3000, show_default=True, help="Port of the whole UI.")
@click.option("--viewer-port", type=int, help="Port of a UI that shows everything and changes nothing.")
@click.option(
    "-w", "--workspace", default="workspace.yaml", show_default=True, help="Dagster's workspace file."
)
def main(host: str, port: int, viewer_port: int | None, workspace: str) -> None:
    """Serve Dagster's UI to those who may use it."""
    settings = read_settings()
    if warning := unguarded(settings):
        click.echo(warning, err=True)
    with dg.DagsterInstance.get() as instance, ExitStack() as stack:
        instance.optimize_for_webserver(STATEMENT_SECONDS * 1_000, CONNECTION_SECONDS, MOST_CONNECTIONS)
        apps: dict[int, ASGIApp] = {
            port: Guard(
                stack.enter_context(_dagster_app(instance, workspace, read_only=False)),
                settings.ui_hosts,
                _lock(settings.ui_password, "operator"),
            )
        }
        if viewer_port is not None:
            apps[viewer_port] = Guard(
                stack.enter_context(_dagster_app(instance, workspace, read_only=True)),
                settings.ui_hosts,
                _lock(settings.viewer_password or settings.ui_password, "viewer"),
            )
        _serve(host, apps)


def _lock(password: str | None, role: str) -> Lock | None:
    return Lock(password, role) if password else None


@contextmanager
def _dagster_app(instance: dg.DagsterInstance, workspace: str, *, read_only: bool) -> Iterator[ASGIApp]:
    """Yield Dagster's own web application: the only place that leans on how `dagster-webserver` makes it.

    What is imported here is semi-public: `test_upstream` watches it.
    """
    from dagster_shared.cli import WorkspaceOpts
    from dagster_webserver.cli import (  # type: ignore[attr-defined]
        WorkspaceProcessContext,
        workspace_opts_to_load_target,
    )
    from dagster_webserver.webserver import DagsterWebserver

    class Webserver(DagsterWebserver[Any, Any]):
        def build_graphql_schema(self) -> Any:
            schema = super().build_graphql_schema()
            if read_only:
                _refuse_trials(schema.graphql_schema)
            return schema

    target = workspace_opts_to_load_target(WorkspaceOpts(workspace=[workspace]))
    with WorkspaceProcessContext(
        instance, target, version=version("dagster-webserver"), read_only=read_only
    ) as process_context:
        yield Webserver(process_context, live_data_poll_rate=LIVE_MILLISECONDS).create_asgi_app()


def _refuse_trials(schema: GraphQLSchema) -> None:
    """Let nobody try a sensor or schedule by a query.

    Dagster refuses readers the mutations that do so, but not the field of what a next tick would come to: to answer it
    the sensor does its work. That of the inbox makes batches of files, for which nobody then asks a run.
    """
    tick: Any = schema.type_map["DryRunInstigationTick"]
    tick.fields["evaluationResult"].resolve = _refuse_trial


def _refuse_trial(_tick: object, _info: object) -> NoReturn:
    raise GraphQLError("To try a sensor or a schedule changes something: it is for the UI of operators.")


def _serve(host: str, apps: Mapping[int, ASGIApp]) -> None:
    config = uvicorn.Config(
        by_port(apps), log_level="warning", lifespan="off", timeout_graceful_shutdown=FAREWELL_SECONDS
    )
    listening = [socket.create_server((host, port)) for port in apps]
    try:
        uvicorn.Server(config).run(listening)
    finally:
        for each in listening:
            each.close()


if __name__ == "__main__":
    main()
