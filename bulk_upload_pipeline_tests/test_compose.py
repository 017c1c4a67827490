"""docker/: what the files promise, and the services of the Compose file at work."""

import http.client
import json
import re
import ssl
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bulk_upload_pipeline import lanes, roles, settings
from bulk_upload_pipeline.sample import write_sample
from bulk_upload_pipeline_tests.composed import (
    DOCKER,
    ROOT,
    Deployment,
    compose,
    image_environment,
    interpolated,
)
from bulk_upload_pipeline_tests.world import csv_of, good_row

PINS = dict(line.split("==") for line in (DOCKER / "constraints.txt").read_text().split())


def test_every_dependency_is_pinned_to_a_version_that_the_project_allows():
    assert all(
        re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in (DOCKER / "constraints.txt").read_text().split()
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *extras["celery"], *extras["s3"]]
    for requirement in map(Requirement, [*needed, *project["build-system"]["requires"]]):
        pinned = PINS.get(canonicalize_name(requirement.name))
        assert pinned, requirement
        assert pinned in requirement.specifier, requirement


def test_the_image_runs_as_nobody_special_and_checks_its_health():
    last = (DOCKER / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", last, re.MULTILINE)
    copied = re.findall(r"^COPY (?:--\S+ )*(.*) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    for name in (part for line in copied for part in line.split() if not part.startswith("/opt")):
        assert (ROOT / name).exists(), name


def test_only_the_ui_is_published_and_only_on_this_machine_unless_told():
    file = compose()
    published = {name: service["ports"] for name, service in file["services"].items() if "ports" in service}
    assert set(published) == {"caddy"}
    assert all(port.startswith("${BULK_UPLOAD_UI_BIND:-127.0.0.1}:") for port in published["caddy"])
    assert file["networks"]["inside"] == {"internal": True}
    assert file["networks"]["front"] == {"internal": True}


def test_no_secret_stands_in_the_environment_and_each_service_has_only_its_own():
    services = compose()["services"]
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable:
                assert variable.endswith("_FILE"), (name, variable)
                assert value.removeprefix("/run/secrets/") in service["secrets"], (name, variable)
        used = " ".join(map(str, [*service.get("environment", {}).values(), *service.get("command", [])]))
        assert all(secret in used for secret in service.get("secrets", [])), name
    holders = [name for name, service in services.items() if "loader_password" in service.get("secrets", [])]
    assert "webserver" not in holders
    assert "daemon" not in holders


DEPLOYED = {
    settings.MAX_ERROR_RATE: "0.25",
    settings.CHUNK_ROWS: "2000",
    settings.PART_MB: "64",
    settings.FIRST_DAY: "2020-02-20",
    settings.KEEP_LOGS_DAYS: "7",
    settings.KEEP_FAILED_RUNS_DAYS: "8",
    settings.KEEP_REPORTS_DAYS: "9",
    settings.KEEP_ARCHIVE_DAYS: "10",
    settings.ALERT_URLS: "json://hook.example",
}


def test_what_is_set_beside_compose_reaches_every_process_that_loads():
    def read(service, variables):
        file = interpolated(compose(), variables | {"BULK_UPLOAD_UI_HOST": "localhost"})
        return settings.read_settings(file["services"][service]["environment"])

    for service in ("code", "worker"):
        stated, usual = read(service, DEPLOYED), read(service, {})
        for name in ("max_error_rate", "chunk_rows", "part_bytes", "first_day", "alert_urls", "keeping"):
            assert getattr(stated, name) == getattr(settings.read_settings(DEPLOYED), name), name
            assert getattr(usual, name) == getattr(settings.read_settings({}), name), name


def test_every_variable_that_there_is_is_given_to_some_service_and_told_of():
    given = set(image_environment())
    for service in compose()["services"].values():
        given |= {name.removesuffix("_FILE") for name in service.get("environment", {})}
    known = {v for v in vars(settings).values() if isinstance(v, str) and v.startswith("BULK_UPLOAD_")}
    assert {name for name in known if "{" not in name} <= given
    told = (DOCKER / "README.md").read_text("utf-8")
    assert [name for name in DEPLOYED if f"`{name}`" not in told] == []


def test_what_a_service_says_is_kept_within_bounds():
    for name, service in compose()["services"].items():
        assert {"max-size", "max-file"} <= set(service["logging"]["options"]), name


def test_every_service_that_stays_restarts_and_has_a_health_check():
    for name, service in compose()["services"].items():
        if name == "init":
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name


@pytest.mark.parametrize(
    ("secret", "sentence"), [(None, "cannot be read"), ("", "is empty"), ("a b@c", "letters, digits")]
)
def test_a_secret_that_cannot_be_used_is_named(tmp_path, secret, sentence):
    path = tmp_path / "password"
    if secret is not None:
        path.write_text(secret)
    environment = {
        "BULK_UPLOAD_DATABASE_PASSWORD_FILE": str(path),
        "BULK_UPLOAD_DATABASE_URL": "postgresql://u@h/d",
    }
    done = subprocess.run([DOCKER / "with-secrets", "true"], env=environment, capture_output=True, text=True)
    assert done.returncode == 78
    assert sentence in done.stderr
    assert str(path) in done.stderr


@pytest.fixture(scope="module")
def deployment():
    with Deployment(BULK_UPLOAD_CHUNK_ROWS="2000") as running:
        yield running


LOADED = "SELECT count(*) FROM bulk_upload.upload_batches WHERE state IN ('loaded', 'partially_loaded')"


@pytest.mark.services
def test_the_services_come_up_in_order_load_files_and_survive_a_new_container(deployment):
    assert not deployment.is_healthy("postgres")
    deployment.start("postgres")
    deployment.wait_healthy("postgres")
    for _ in range(2):
        done = deployment.run("init")
        assert done.returncode == 0, done.stderr
    assert not deployment.is_healthy("code")
    deployment.start("code")
    deployment.wait_healthy("code")
    assert not deployment.is_healthy("daemon")
    assert not deployment.is_healthy("webserver")
    deployment.start("daemon")
    deployment.start("webserver")
    deployment.wait_healthy("daemon")
    deployment.wait_healthy("webserver")
    inbox = deployment.data / "inbox"
    inbox.mkdir(exist_ok=True)
    (inbox / "small.csv").write_text(csv_of([good_row(number) for number in range(100)]))
    deployment.wait(lambda: deployment.ask(LOADED) == [(1,)], "code")
    # A new version: the container is stopped in the middle of a load, and another one starts.
    rows = 20_000
    write_sample(deployment.folder / "large.part", rows=rows, seed=7)
    (deployment.folder / "large.part").rename(inbox / "large.csv")
    loading = "SELECT 1 FROM bulk_upload.upload_batches WHERE state IN ('validated', 'loading', 'received')"
    deployment.wait(lambda: deployment.ask(loading), "code")
    deployment.stop("code")
    deployment.start("code")
    deployment.wait_healthy("code")
    deployment.wait(lambda: deployment.ask(LOADED) == [(2,)], "code")
    assert deployment.ask("SELECT count(*) FROM public.mangalam_invoices") == [(rows + 100,)]
    assert deployment.ask(
        "SELECT sum(rows_inserted), sum(rows_rejected) FROM bulk_upload.upload_batches"
    ) == [(rows + 100, 0)]


@pytest.mark.services
def test_people_ask_from_within_a_container(deployment):
    done = deployment.run("code", "bulk-upload", "status", "--json")
    assert done.returncode == 0, done.stderr
    assert '"small.csv"' in done.stdout


@pytest.mark.services
def test_the_roles_log_in_with_their_passwords_only(deployment):
    deployment.variables["READER_PASSWORD"], kept = "wrong", deployment.variables["READER_PASSWORD"]
    with pytest.raises(Exception, match="password authentication failed"):
        deployment.ask("SELECT 1")
    deployment.variables["READER_PASSWORD"] = kept
    assert deployment.ask("SELECT current_user") == [(roles.READER,)]


@pytest.mark.services
@pytest.mark.parametrize(
    ("overlays", "variables"),
    [
        ((), {}),
        ((), {"COMPOSE_PROFILES": "workers"}),
        (("bucket.yaml",), {"COMPOSE_PROFILES": "workers", "BULK_UPLOAD_BUCKET": "s3://bucket/home"}),
    ],
)
def test_compose_itself_reads_the_file_as_these_tests_do(tmp_path, overlays, variables):
    with Deployment(overlays=overlays, **variables) as deployment:
        (tmp_path / ".env").write_text(
            "".join(f"{name}={value}\n" for name, value in deployment.variables.items())
        )
        compose = Path(sys.executable).with_name("docker-compose")
        files = [word for name in ("compose.yaml", *overlays) for word in ("--file", DOCKER / name)]
        command = [compose, "--env-file", tmp_path / ".env", *files, "config"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        known = yaml.safe_load(said)["services"]
        expected = {n for n, s in deployment.file["services"].items() if variables or not s.get("profiles")}
        assert known.keys() == expected
        for name, service in known.items():
            stated = deployment.file["services"][name]
            environment = {key: str(value) for key, value in stated.get("environment", {}).items()}
            assert service.get("environment", {}) == environment, name
            # It prints what would have to be read again: with dollar signs doubled.
            assert [word.replace("$$", "$") for word in service["command"]] == stated["command"], name


@pytest.mark.services
def test_the_dockerfile_has_none_of_the_known_faults():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def asked(deployment, method, path, *, port="ui", body=None, **headers):
    """What the UI answers through Caddy: status, headers, text."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("localhost", deployment.ports[port], timeout=60, context=context)
    with closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


@pytest.mark.services
def test_the_ui_is_reached_through_tls_with_a_password_and_by_nobody_elses_page(deployment):
    deployment.start("caddy")
    deployment.wait_healthy("caddy")
    query = json.dumps({"query": "{ version }"})
    json_type = {"Content-Type": "application/json"}
    origin = f"https://localhost:{deployment.ports['ui']}"
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin}
    status, _, text = asked(deployment, "POST", "/graphql", body=query, **json_type)
    assert status in (401, 403)
    status, _, _ = asked(deployment, "POST", "/login", body="password=wrong", **form)
    assert status in (401, 403)
    status, headers, _ = asked(
        deployment, "POST", "/login", body=f"password={deployment.variables['UI_PASSWORD']}", **form
    )
    assert status in (302, 303)
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert "secure" in headers["Set-Cookie"].lower()
    known = {**json_type, "Cookie": cookie}
    status, _, text = asked(deployment, "POST", "/graphql", body=query, Origin=origin, **known)
    assert (status, json.loads(text)["data"].keys()) == (200, {"version"})
    foreign = asked(deployment, "POST", "/graphql", body=query, Origin="https://evil.example", **known)
    assert foreign[0] == 403
    assert asked(deployment, "GET", "/graphql?query=%7Bversion%7D", **known)[0] in (403, 405)
    assert "version" not in asked(deployment, "POST", "/graphql", body=query, Host="evil.example", **known)[2]
    assert asked(deployment, "POST", "/graphql", body=query, port="ui-viewer", **known)[0] in (401, 403)


def test_the_configuration_with_a_pool_differs_in_what_concerns_the_pool_only():
    alone = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    pool = yaml.safe_load((DOCKER / "dagster-celery.yaml").read_text())
    assert pool.pop("run_launcher")["class"] == "CeleryRunLauncher"
    limits = [file.pop("concurrency") for file in (alone, pool)]
    assert alone == pool
    assert [entry["value"] for entry in limits[0]["runs"]["tag_concurrency_limits"]] == [
        entry["value"] for entry in limits[1]["runs"]["tag_concurrency_limits"]
    ]
    assert [entry["limit"] for limit in limits for entry in limit["runs"]["tag_concurrency_limits"][:1]] == [
        lanes.AT_ONCE,
        lanes.AT_ONCE_IN_POOL,
    ]
    assert limits[0]["pools"]["granularity"] == limits[1]["pools"]["granularity"]
