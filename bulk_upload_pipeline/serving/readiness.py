"""What the local services of Dagster say of their own state."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

LOCATION = "bulk_upload_pipeline"
_STATE = """
{
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy lastHeartbeatTime } } }
  workspaceOrError {
    ... on Workspace {
      locationEntries { loadStatus locationOrLoadError { __typename ... on PythonError { message } } }
    }
  }
}
"""


@dataclass(frozen=True, slots=True)
class Lack:
    """A service that is not ready, and why."""

    service: str
    cause: str


def unready(host: str, port: int, since: float, password: str | None = None) -> Lack | None:
    """Return the first service that is not ready, None when all of them are.

    Args:
        host: Of the webserver.
        port: Of the webserver.
        since: Seconds since the epoch; heartbeats of earlier daemons do not count.
        password: Of the UI, if it has one.
    """
    try:
        state = _ask(host, port, password)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Lack("webserver", f"it does not answer: {error}")
    return _code_lacks(state) or _daemon_lacks(state, since)


def _ask(host: str, port: int, password: str | None) -> dict[str, Any]:
    headers: dict[str, str | bytes] = {"Content-Type": "application/json"}
    if password:
        # As bytes: a text http.client sends as Latin-1, in which not every password can be written.
        headers["Authorization"] = f"Bearer {password}".encode("utf-8", "surrogateescape")
    # http.client, since urllib would send even this through a proxy that the environment names.
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("POST", "/graphql", json.dumps({"query": _STATE}), headers)
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if not isinstance(answer, dict) or not answer.get("data"):
        raise ValueError("no answer to what it was asked")
    return answer["data"]


def _code_lacks(state: dict[str, Any]) -> Lack | None:
    entries = state["workspaceOrError"].get("locationEntries") or []
    for entry in entries:
        loaded = entry["locationOrLoadError"] or {}
        if loaded.get("__typename") == "PythonError":
            return Lack("code server", loaded["message"].strip().splitlines()[0])
        if entry["loadStatus"] != "LOADED":
            return Lack("code server", "its code is not loaded yet")
    return None if entries else Lack("code server", "the webserver does not know it")


def _daemon_lacks(state: dict[str, Any], since: float) -> Lack | None:
    for daemon in state["instance"]["daemonHealth"]["allDaemonStatuses"]:
        fresh = daemon["healthy"] and (daemon["lastHeartbeatTime"] or 0) >= since
        if daemon["required"] and not fresh:
            return Lack("daemon", f"{daemon['daemonType']} has no heartbeat")
    return None
