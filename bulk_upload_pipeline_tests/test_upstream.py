"""What we lean on in Dagster and pandera, each with the decision that took the dependency."""

import asyncio
import json
import warnings

import dagster as dg
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pytest
from pandera.errors import SchemaErrors

PARTS = dg.DynamicPartitionsDefinition(name="parts")


def test_pandera_reports_every_fault_of_typed_columns_with_its_row():
    """Decides that parsing comes before pandera: on typed columns nothing hides anything else."""
    column = pandera.Column(
        pd.ArrowDtype(pa.decimal128(15, 4)),
        [pandera.Check(lambda s: s != 0, name="ZERO"), pandera.Check(lambda s: s >= 0, name="BELOW")],
    )
    frame = pd.DataFrame(
        {"q": pd.array(pa.array([1, 0, None, -2], pa.decimal128(15, 4)), dtype=column_type())}
    )
    with pytest.raises(SchemaErrors) as error:
        pandera.DataFrameSchema({"q": column}).validate(frame, lazy=True)
    cases = error.value.failure_cases
    assert dict(zip(cases["check"], cases["index"], strict=True)) == {
        "not_nullable": 2,
        "ZERO": 1,
        "BELOW": 3,
    }


def column_type():
    return pd.ArrowDtype(pa.decimal128(15, 4))


def test_pandera_hides_faults_of_a_column_that_cannot_be_converted():
    """Decides the same from the other side: an untyped column loses its other findings."""
    schema = pandera.DataFrameSchema({"q": pandera.Column(int, pandera.Check(lambda s: s >= 0), coerce=True)})
    with pytest.raises(SchemaErrors) as error:
        schema.validate(pd.DataFrame({"q": ["1", "x", "-2"]}), lazy=True)
    assert 2 not in set(error.value.failure_cases["index"].dropna())


def test_pandera_repeats_a_finding_of_a_whole_row_for_every_column():
    """Decides that rules between columns are judged as boolean columns of their own."""
    schema = pandera.DataFrameSchema(
        checks=pandera.Check(lambda frame: frame["a"] < frame["b"], name="ORDER")
    )
    with pytest.raises(SchemaErrors) as error:
        schema.validate(pd.DataFrame({"a": [2], "b": [1], "c": [0]}), lazy=True)
    assert len(error.value.failure_cases) == 3


def test_a_partitioned_check_belongs_to_its_partition_and_is_a_preview():
    """Decides `defs.checks`, the one place that uses the preview."""

    @dg.asset(partitions_def=PARTS)
    def thing():
        return None

    with pytest.warns(match="partitions_def"):

        @dg.asset_check(asset=thing, partitions_def=PARTS)
        def light(context: dg.AssetCheckExecutionContext):
            return dg.AssetCheckResult(passed=context.op_execution_context.partition_key == "a")

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("parts", ["a"])
        result = dg.materialize([thing, light], instance=instance, partition_key="a")
        (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.partition, evaluation.passed) == ("a", True)


def test_a_blocking_check_stops_the_steps_after_it_in_its_own_run_only():
    """Decides that the loader reads the verdict again instead of trusting the gate."""
    ran = []

    @dg.asset
    def first():
        return None

    @dg.asset_check(asset=first, blocking=True)
    def gate():
        return dg.AssetCheckResult(passed=False)

    @dg.asset(deps=[first])
    def second():
        ran.append("second")

    with dg.DagsterInstance.ephemeral() as instance:
        assert not dg.materialize([first, gate, second], instance=instance, raise_on_error=False).success
        assert ran == []
        assert dg.materialize([second], instance=instance).success
    assert ran == ["second"]


def test_an_optional_output_that_is_not_given_skips_what_depends_on_it():
    """Decides how a duplicate ends: the run succeeds, and nothing after `upload` runs."""
    ran = []

    @dg.asset(output_required=False)
    def first():
        if ran:
            yield dg.MaterializeResult()

    @dg.asset(deps=[first])
    def second():
        ran.append("second")

    assert dg.materialize([first, second]).success
    assert ran == []


def test_an_event_that_a_step_logs_materializes_another_asset_for_its_partition():
    """Decides how an early exit writes its receipt without the receipt's own step."""

    @dg.asset(partitions_def=PARTS)
    def first(context: dg.AssetExecutionContext):
        context.log_event(dg.AssetMaterialization("receipt", partition=context.partition_key))

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("parts", ["a"])
        dg.materialize([first], instance=instance, partition_key="a")
        assert instance.get_materialized_partitions(dg.AssetKey("receipt")) == {"a"}


DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")


def test_a_range_of_partitions_is_one_run_with_metadata_of_each_key_and_is_a_beta():
    """Decides `defs.sales`: a back-fill of a year is one run and one statement."""
    with pytest.warns(match="backfill_policy"):

        @dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
        def by_day(context: dg.AssetExecutionContext):
            for key in context.partition_keys:
                context.add_asset_metadata({"day": key}, partition_key=key)
            return dg.MaterializeResult()

    tags = {
        "dagster/asset_partition_range_start": "2024-01-30",
        "dagster/asset_partition_range_end": "2024-01-31",
    }
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([by_day], instance=instance, tags=tags)
        events = result.asset_materializations_for_node("by_day")
    assert [(e.partition, e.metadata["day"].value) for e in events] == [
        ("2024-01-30", "2024-01-30"),
        ("2024-01-31", "2024-01-31"),
    ]


def test_a_check_that_a_step_logs_belongs_to_its_asset_although_the_annotation_does_not_name_it():
    """Decides how one run says of many batches what it found."""

    @dg.op
    def look(context: dg.OpExecutionContext):
        context.log_event(
            dg.AssetCheckEvaluation(dg.AssetKey("thing"), "light", passed=True, metadata={}, partition="a")
        )

    @dg.job
    def looking():
        look()

    with dg.DagsterInstance.ephemeral() as instance:
        (event,) = looking.execute_in_process(instance=instance).get_asset_check_evaluations()
    assert (event.check_name, event.partition, event.passed) == ("light", "a", True)


def test_warnings_are_errors_in_these_tests():
    with pytest.raises(UserWarning):
        warnings.warn("loud", UserWarning, stacklevel=1)


def test_the_webserver_is_made_from_a_workspace_of_ours_and_executes_a_query_in_an_address(tmp_path):
    """Decides `defs.ui`, which makes it in the same way, and the guard around it."""
    from bulk_upload_pipeline.defs.ui import _dagster_app

    (tmp_path / "workspace.yaml").write_text("load_from: []\n")
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        _dagster_app(instance, str(tmp_path / "workspace.yaml"), read_only=True) as app,
    ):
        assert answered(app, "GET", "/graphql", b"query={version}")["data"]["version"]
        changing = {route.path for route in app.routes if "POST" in (getattr(route, "methods", None) or ())}
    assert {path.partition("/{")[0] for path in changing} == {
        "/graphql",
        "/report_asset_materialization",
        "/report_asset_check",
        "/report_asset_observation",
    }


def answered(app, method, path, query):
    """Return the JSON with which an ASGI application answers."""
    sent = []

    async def serve():
        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b""}

        scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": []}
        await app(scope, receive, send)

    asyncio.run(serve())
    return json.loads(b"".join(message.get("body", b"") for message in sent))
