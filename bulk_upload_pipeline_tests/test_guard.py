"""Attacks on the UI of a real `up`, all of them with a valid session, and what people do in it every day."""

from __future__ import annotations

import asyncio
import http.client
import json
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from starlette.responses import PlainTextResponse
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from bulk_upload_pipeline.guard import MOST_WRONG_AT_ONCE, SESSION_SECONDS, Guard, Lock
from bulk_upload_pipeline.serving.readiness import LOCATION
from bulk_upload_pipeline.serving.services import up
from bulk_upload_pipeline.settings import Settings
from bulk_upload_pipeline_tests.test_local import LAUNCH, STATUS, end_world, make_world, wait_until
from bulk_upload_pipeline_tests.upped import free_port

PASSWORD, FOR_VIEWERS = "काजू katli: 500 g", "only looking"
ADD = (
    'mutation { addDynamicPartition(partitionsDefName: "parts", partitionKey: "%s", repositorySelector: '
    '{repositoryName: "__repository__", repositoryLocationName: "' + LOCATION + '"}) { __typename '
    "... on UnauthorizedError { message } } }"
)
PARTS = (
    '{ assetNodeOrError(assetKey: {path: ["parted"]}) { ... on AssetNode { partitionKeys assetMaterializations '
    "{ partition } } } }"
)
SUBSCRIPTION = """
subscription ($run: ID!) {
  pipelineRunLogs(runId: $run, cursor: null) {
    ... on PipelineRunLogsSubscriptionSuccess { messages { __typename } }
  }
}
"""
PARTED = """

@dg.asset(partitions_def=dg.DynamicPartitionsDefinition(name="parts"))
def parted():
    return dg.MaterializeResult()

@dg.schedule(job_name="quick_job", cron_schedule="0 0 1 1 *")
def rare(context):
    context.instance.add_dynamic_partitions("parts", ["tried"])
    return dg.SkipReason("It did its work.")

"""
TRY = """fragment Tried on DryRunInstigationTick { did: evaluationResult { skipReason } }
{ scheduleOrError(scheduleSelector: {repositoryName: "__repository__", repositoryLocationName: "LOCATION",
  scheduleName: "rare"}) { ... on Schedule { futureTick(tickTimestamp: 1) { ...Tried } } } }
""".replace("LOCATION", LOCATION)


class Visitor:
    """A browser with a session, or a program."""

    def __init__(self, port, cookie=None):
        self.port, self.cookie = port, cookie

    def ask(self, method, path, body=None, **headers):
        """Return status, headers and text of an answer; header names have `_` for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        stated = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            stated["Cookie"] = self.cookie
        connection.request(method, path, body, stated)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        return answer.status, dict(answer.getheaders()), text

    def log_in(self, password, **headers):
        form = urlencode({"password": password, "next": "/runs"})
        status, answered, _ = self.ask(
            "POST", "/login", form, Content_Type="application/x-www-form-urlencoded", **headers
        )
        self.cookie = answered.get("set-cookie", "").partition(";")[0] or None
        return status, answered

    def query(self, query, **variables):
        status, _, text = self.ask(
            "POST",
            "/graphql",
            json.dumps({"query": query, "variables": variables}),
            Content_Type="application/json",
            Origin=f"http://127.0.0.1:{self.port}",
            Sec_Fetch_Site="same-origin",
        )
        assert status == 200, text
        return json.loads(text)["data"]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A real `up` with passwords, a port for viewers and one more name."""
    world = make_world(tmp_path_factory.mktemp("guarded"))
    definitions = Path(world.definitions)
    text = definitions.read_text().replace("defs = ", PARTED + "defs = ")
    definitions.write_text(text.replace("assets=[", "schedules=[rare], assets=[parted, "))
    settings = Settings(
        world.home, ui_password=PASSWORD, viewer_password=FOR_VIEWERS, ui_hosts=("ui.example",)
    )
    viewers = free_port()
    try:
        with up(
            settings,
            world.port,
            prepare=lambda urls: None,
            on_event=world.events.append,
            definitions=world.definitions,
            viewer_port=viewers,
        ) as services:
            assert services.viewer_url == f"http://127.0.0.1:{viewers}"
            world.viewers = viewers
            yield world
    finally:
        end_world(world)


@pytest.fixture(scope="module")
def operator(house):
    visitor = Visitor(house.port)
    assert visitor.log_in(PASSWORD)[0] == 303
    return visitor


@pytest.fixture(scope="module")
def viewer(house):
    visitor = Visitor(house.viewers)
    assert visitor.log_in(FOR_VIEWERS)[0] == 303
    return visitor


def parts(operator):
    return operator.query(PARTS)["assetNodeOrError"]


MUTATION = quote(ADD % "evil")
JSON = {"Content_Type": "application/json"}
BODY = json.dumps({"query": ADD % "evil"})
FORM = {"Content_Type": "application/x-www-form-urlencoded"}
ATTACKS = {
    "a mutation in an address": ("GET", f"/graphql?query={MUTATION}", None, {}),
    "the same, its name in disguise": ("GET", f"/graphql?%71uery={MUTATION}", None, {}),
    "the same as HEAD": ("HEAD", f"/graphql?query={MUTATION}", None, {}),
    "a mutation in the address of a form": ("POST", f"/graphql?query={MUTATION}", "", FORM),
    "a mutation in the address beside JSON": ("POST", f"/graphql?query={MUTATION}", BODY, JSON),
    "JSON that calls itself text": (
        "POST",
        "/graphql",
        BODY,
        {"Content_Type": "text/plain; application/json"},
    ),
    "GraphQL as text": ("POST", "/graphql", ADD % "evil", {"Content_Type": "application/graphql"}),
    "JSON from another site": ("POST", "/graphql", BODY, JSON | {"Origin": "http://evil.example"}),
    "JSON from nowhere": ("POST", "/graphql", BODY, JSON | {"Origin": "null"}),
    "JSON from another port here": ("POST", "/graphql", BODY, JSON | {"Origin": "http://127.0.0.1:8888"}),
    "JSON from https where there is none": ("POST", "/graphql", BODY, JSON | {"Origin": "https://127.0.0.1"}),
    "JSON that the browser knows to be foreign": (
        "POST",
        "/graphql",
        BODY,
        JSON | {"Sec_Fetch_Site": "cross-site"},
    ),
    "JSON from a neighbouring site": ("POST", "/graphql", BODY, JSON | {"Sec_Fetch_Site": "same-site"}),
    "a name that DNS points here": ("POST", "/graphql", BODY, JSON | {"Host": "evil.example"}),
    "the same with our port": ("POST", "/graphql", BODY, JSON | {"Host": "evil.example:3000"}),
    "the same, of one origin with itself": (
        "POST",
        "/graphql",
        BODY,
        JSON | {"Host": "evil.example", "Origin": "http://evil.example", "Sec_Fetch_Site": "same-origin"},
    ),
    "a name that holds ours": ("POST", "/graphql", BODY, JSON | {"Host": "127.0.0.1.evil.example"}),
    "a name before ours": ("POST", "/graphql", BODY, JSON | {"Host": "evil.example@127.0.0.1"}),
    "no name": ("POST", "/graphql", BODY, JSON | {"Host": ""}),
    "an event by form": ("POST", "/report_asset_materialization/parted?partition=evil", "", FORM),
    "an event by JSON": ("POST", "/report_asset_materialization/parted", '{"partition": "evil"}', JSON),
    "an event with a name in disguise": (
        "POST",
        "/%72eport_asset_materialization/parted?partition=evil",
        "",
        FORM,
    ),
    "a check by form": ("POST", "/report_asset_check/parted?check_name=x&passed=true", "", FORM),
    "an observation": ("POST", "/report_asset_observation/parted?partition=evil", "", FORM),
    "a page of ours in a frame": (
        "GET",
        "/",
        None,
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    ),
    "a script of ours on another page": (
        "GET",
        "/manifest.json",
        None,
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "script"},
    ),
    "another method": ("DELETE", "/graphql", None, {}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_changes_nothing(operator, attack):
    method, path, body, headers = ATTACKS[attack]
    status, _, _ = operator.ask(method, path, body, **headers)
    assert status in (403, 405)
    after = parts(operator)
    assert "evil" not in after["partitionKeys"]
    assert after["assetMaterializations"] == []


def test_what_people_do_works(house, operator):
    status, headers, text = operator.ask("GET", "/", Accept="text/html")
    assert (status, headers["x-frame-options"]) == (200, "DENY")
    assert "Dagster" in text
    assert operator.ask("GET", "/graphql", Accept="text/html")[0] == 200
    added = operator.query(ADD % "wanted")["addDynamicPartition"]["__typename"]
    assert added == "AddDynamicPartitionSuccess"
    assert parts(operator)["partitionKeys"] == ["wanted"]


def test_a_link_in_a_mail_opens_the_ui(operator):
    by_link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert operator.ask("GET", "/runs", Accept="text/html", **by_link)[0] == 200


def launch(visitor, job):
    selector = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION, "jobName": job}
    return visitor.query(LAUNCH, params={"selector": selector, "runConfigData": {}})["launchRun"]


def test_a_launched_run_succeeds_and_its_events_come_through_the_websocket(operator):
    run = launch(operator, "quick_job")["run"]["runId"]
    with websocket(operator) as socket:
        socket.send(json.dumps({"type": "connection_init", "payload": {}}))
        payload = {"query": SUBSCRIPTION, "variables": {"run": run}}
        socket.send(json.dumps({"id": "1", "type": "start", "payload": payload}))
        seen = set()
        while "RunSuccessEvent" not in seen:
            message = json.loads(socket.recv(timeout=120))
            if message["type"] == "data":
                logs = message["payload"]["data"]["pipelineRunLogs"]
                seen |= {event["__typename"] for event in logs["messages"]}
    wait_until(lambda: operator.query(STATUS, run=run)["runOrError"]["status"] == "SUCCESS")


def websocket(visitor, **headers):
    cookie = {"Cookie": visitor.cookie} if visitor.cookie else {}
    address = f"ws://127.0.0.1:{visitor.port}/graphql"
    stated = {"Origin": f"http://127.0.0.1:{visitor.port}"} | cookie | headers
    return connect(address, subprotocols=["graphql-ws"], additional_headers=stated, proxy=None)


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Cookie": "x=y"}]
)
def test_a_websocket_of_another_page_or_without_a_session_is_refused(operator, headers):
    with pytest.raises(InvalidStatus, match="403"):
        websocket(operator, **headers)


def test_a_viewer_sees_everything_and_changes_nothing(operator, viewer):
    assert viewer.query(PARTS)["assetNodeOrError"]["partitionKeys"] == parts(operator)["partitionKeys"]
    refused = viewer.query(ADD % "evil")["addDynamicPartition"]
    assert refused["__typename"] == "UnauthorizedError"
    assert launch(viewer, "quick_job")["__typename"] == "UnauthorizedError"
    assert "evil" not in parts(operator)["partitionKeys"]


def test_a_viewer_tries_no_schedule_by_asking_what_a_tick_of_it_would_come_to(operator, viewer):
    refused = viewer.ask("POST", "/graphql", json.dumps({"query": TRY}), **JSON)[2]
    assert "it is for the UI of operators" in refused
    assert "tried" not in parts(operator)["partitionKeys"]
    tried = operator.query(TRY)["scheduleOrError"]["futureTick"]["did"]["skipReason"]
    assert (tried, parts(operator)["partitionKeys"].count("tried")) == ("It did its work.", 1)


def test_the_viewers_password_and_session_open_nothing_else(house, viewer):
    assert Visitor(house.port, viewer.cookie).ask("POST", "/graphql", BODY, **JSON)[0] == 401
    assert Visitor(house.port).log_in(FOR_VIEWERS)[0] == 401


def test_nothing_is_shown_before_the_password(house):
    nobody = Visitor(house.port)
    for path in ("/", "/runs", "/manifest.json", "/logs/x.err", "/download_debug/x"):
        status, headers, text = nobody.ask("GET", path, Accept="text/html")
        assert (status, "<form" in text) == (401, True)
        assert headers["content-security-policy"].startswith("default-src 'none'")
    assert nobody.ask("POST", "/graphql", BODY, **JSON)[0] == 401
    assert nobody.ask("GET", "/server_info")[0] == 200
    assert "&lt;b&gt;" in nobody.ask("GET", "/%3Cb%3E", Accept="text/html")[2]


def test_a_login_is_a_cookie_that_other_sites_cannot_send(house):
    visitor = Visitor(house.port)
    status, headers = visitor.log_in(PASSWORD)
    assert (status, headers["location"]) == (303, "/runs")
    cookie = headers["set-cookie"].lower()
    assert all(mark in cookie for mark in ("httponly", "samesite=strict", "path=/"))
    assert Visitor(house.port).log_in("wrong")[0] == 401
    assert Visitor(house.port).log_in(PASSWORD, Origin="http://evil.example")[0] == 403


def test_a_program_sends_the_password_as_a_bearer_token(house):
    program = Visitor(house.port)
    body = json.dumps({"query": "{ version }"})
    right = f"Bearer {PASSWORD}".encode()
    assert program.ask("POST", "/graphql", body, Authorization=right, **JSON)[0] == 200
    assert program.ask("POST", "/graphql", body, Authorization="Bearer wrong", **JSON)[0] == 401


def test_the_ui_answers_to_the_names_that_are_set(operator):
    for host in ("ui.example", "UI.example:443", "localhost:3000", "[::1]:3000"):
        assert operator.ask("GET", "/server_info", Host=host)[0] == 200
    behind_a_proxy = {"Host": "ui.example", "Origin": "https://ui.example", "X_Forwarded_Proto": "https"}
    assert operator.ask("POST", "/graphql", '{"query": "{ version }"}', **JSON, **behind_a_proxy)[0] == 200


# Without a password, and what a session is worth


async def answered(guard, path="/", receive=None, **headers):
    """Return the status with which a guard answers: a POST where there is a body to receive, else a GET."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST" if receive else "GET",
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "scheme": "http",
        "server": ("127.0.0.1", 3000),
    }
    await guard(scope, receive, send)
    return sent[0]["status"]


def served(guard, **headers):
    return asyncio.run(answered(guard, **headers))


def test_without_a_password_the_names_are_still_ours_alone():
    guard = Guard(PlainTextResponse("inside"), [])
    assert served(guard, host="127.0.0.1:3000") == 200
    assert served(guard, host="evil.example") == 403
    assert served(guard) == 403


def test_a_name_may_be_set_with_the_port_that_an_address_bar_shows():
    guard = Guard(PlainTextResponse("inside"), ["ui.example:8443", "::2"])
    assert served(guard, host="ui.example:8443") == 200
    assert served(guard, host="[::2]:3000") == 200
    assert served(guard, host="8443") == 403


@pytest.mark.parametrize("password", ["crème brûlée", "काजू", " with blanks ", "a:b"])
def test_a_header_states_any_password_in_both_ways_in_which_programs_write_it(password):
    lock = Lock(password, "operator")
    as_utf_8 = password.strip().encode().decode("latin-1")
    assert lock.opens_by_header(as_utf_8)
    if password.isascii() or password.startswith("crème"):
        assert lock.opens_by_header(password.strip())
    assert not any(lock.opens_by_header(wrong) for wrong in ("", as_utf_8[1:], as_utf_8 + "x", "\xff"))


def test_nothing_opens_a_lock_of_blanks_by_saying_nothing():
    assert not Lock("  ", "operator").opens_by_header("")


def login_with(password):
    async def receive():
        return {"type": "http.request", "body": f"password={password}".encode(), "more_body": False}

    return receive


def test_who_asks_often_guesses_no_faster(monkeypatch):
    monkeypatch.setattr("bulk_upload_pipeline.guard.SECONDS_AFTER_A_WRONG_PASSWORD", 0.01)
    guard = Guard(PlainTextResponse("inside"), [], Lock("right", "operator"))

    def login(password):
        return answered(guard, "/login", login_with(password), host="localhost")

    async def flood():
        guesses = [login(f"wrong{number}") for number in range(40)]
        at_once = await asyncio.gather(*guesses, login("right"), answered_by("right"))
        return at_once, await login("right")

    def answered_by(token):
        return answered(guard, host="localhost", authorization=f"Bearer {token}")

    (*wrong, right, by_token), afterwards = asyncio.run(flood())
    assert wrong == [401] * MOST_WRONG_AT_ONCE + [429] * (40 - MOST_WRONG_AT_ONCE)
    assert (right, by_token) == (429, 429)
    assert afterwards == 303


def test_a_login_that_breaks_off_is_no_fault_of_ours():
    async def gone():
        return {"type": "http.disconnect"}

    guard = Guard(PlainTextResponse("inside"), [], Lock("right", "operator"))
    assert asyncio.run(answered(guard, "/login", gone, host="localhost")) == 401


def test_a_session_is_ours_until_it_expires_or_the_password_changes():
    lock, now = Lock("one", "operator"), 1_800_000_000.0
    session = lock.session(now)
    assert lock.knows(session, now)
    assert not lock.knows(session, now + SESSION_SECONDS + 1)
    assert not Lock("two", "operator").knows(session, now)
    assert not Lock("one", "viewer").knows(session, now)
    expiry, _, signature = session.partition(".")
    for forged in (f"{int(expiry) + 9}.{signature}", expiry, "", "٣.x", f"{expiry}.", f"{expiry}.é"):
        assert not lock.knows(forged, now)


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "\r\nX: y"])
def test_a_login_leads_to_no_other_site(house, wanted):
    visitor = Visitor(house.port)
    form = urlencode({"password": PASSWORD, "next": wanted})
    _, headers, _ = visitor.ask("POST", "/login", form, Content_Type="application/x-www-form-urlencoded")
    assert headers["location"] == "/"
