"""Manifests go through the models without loss; authors' mistakes are named."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from corral.api.agent import AgentSpec
from corral.api.crd.kinds import KINDS
from corral.api.cron import CronSpec
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.template import TemplateSpec
from corral.api.types import Resource, seconds
from corral.api.workflow import WorkflowSpec

EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.yaml"))
BY_KIND = {kind.name: kind for kind in KINDS}
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


def parts(path: Path) -> list[tuple[type[Resource], dict[str, Any]]]:
    found = yaml.safe_load(path.read_text())
    kind = BY_KIND[found["kind"]]
    both: list[tuple[type[Resource], dict[str, Any]]] = [(kind.spec, found["spec"])]
    return both + ([(kind.status, found["status"])] if kind.status and "status" in found else [])


def missing(given: Any, kept: Any, path: str = "") -> list[str]:
    """Paths of what was given and is not the same any more."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            item
            for key, value in given.items()
            for item in missing(value, kept.get(key, "(absent)"), f"{path}.{key}")
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        pairs = enumerate(zip(given, kept, strict=True))
        return [item for i, (a, b) in pairs for item in missing(a, b, f"{path}[{i}]")]
    return [] if given == kept else [path]


@each_example
def test_an_example_is_read_strictly_and_comes_out_whole(path: Path) -> None:
    for cls, given in parts(path):
        kept = cls.model_validate(given, extra="forbid").to_json()
        lost = missing(given, kept)
        # A number of CPUs becomes text, which means the same.
        assert [item for item in lost if not item.endswith("limits.cpu")] == []


@each_example
def test_what_was_written_is_read_back_the_same(path: Path) -> None:
    for cls, given in parts(path):
        once = cls.model_validate(given).to_json()
        assert cls.model_validate(once).to_json() == once


@each_example
def test_fields_of_a_newer_version_are_kept(path: Path) -> None:
    for cls, given in parts(path):
        newer = {**given, "fromTheFuture": {"deep": [1, None, {"x": "y"}]}}
        assert cls.model_validate(newer).to_json()["fromTheFuture"] == newer["fromTheFuture"]


def test_fields_of_a_newer_version_are_kept_deep_inside() -> None:
    given = {"steps": [{"name": "a", "agentRef": {"name": "x", "namespace": "y"}, "new": {"n": 1}}]}
    assert missing(given, WorkflowSpec.model_validate(given).to_json()) == []


def step(**fields: Any) -> dict[str, Any]:
    return {"steps": [{"name": "a", "transform": "x", **fields}]}


MISTAKES: dict[str, tuple[type[Resource], dict[str, Any], str]] = {
    "an unknown field of a spec": (
        WorkflowSpec,
        {**step(), "paralellism": 3},
        "paralellism: Extra inputs are not permitted",
    ),
    "an unknown field of a step": (
        WorkflowSpec,
        step(agentref={"name": "x"}),
        "steps.0.agentref: Extra inputs are not permitted",
    ),
    "an unknown field of a nested step": (
        WorkflowSpec,
        {"steps": [{"name": "a", "steps": [{"name": "b", "wat": 1}]}]},
        "steps.0.steps.0.wat: Extra inputs are not permitted",
    ),
    "a field by its Python name is not taken twice": (
        AgentSpec,
        {"modelRef": {"name": "m"}, "tools": [{"name": "t", "mcp": {"url": "http://x", "no": 1}}]},
        "tools.0.mcp.no: Extra inputs are not permitted",
    ),
    "a secret as an environment variable": (
        PoolSpec,
        {
            "agentRef": {"name": "a"},
            "template": {"env": [{"name": "K", "valueFrom": {"secretKeyRef": {}}}]},
        },
        "template.env.0.valueFrom: Extra inputs are not permitted",
    ),
    "a required field that is missing": (
        PoolSpec,
        {"replicas": 2},
        "agentRef: Field required",
    ),
    "a zero duration": (WorkflowSpec, step(timeout="0s"), "steps.0.timeout: Value error, must be"),
    "a negative duration": (WorkflowSpec, step(timeout="-1s"), "steps.0.timeout: String should"),
    "a budget of nothing": (
        WorkflowSpec,
        {**step(), "budget": {"maxCostUSD": "0"}},
        "budget.maxCostUSD: Value error, must be more than zero",
    ),
    "money with seven decimals": (
        WorkflowSpec,
        {**step(), "budget": {"maxCostUSD": "0.0000001"}},
        "budget.maxCostUSD: String should match",
    ),
    "a negative tolerance": (
        WorkflowSpec,
        step(forEach={"items": [1], "tolerateFailures": -1}),
        "Input should be greater than or equal to 0",
    ),
    "a tolerance of more than all": (
        WorkflowSpec,
        step(forEach={"items": [1], "tolerateFailures": "101%"}),
        "String should match pattern",
    ),
    "a word that there isn't": (
        WorkflowSpec,
        {**step(), "shutdown": "Now"},
        "shutdown: Input should be 'Stop' or 'Terminate'",
    ),
    "a step name that is a subtraction": (
        WorkflowSpec,
        {"steps": [{"name": "my-step", "transform": "x"}]},
        "steps.0.name: String should match pattern",
    ),
    "a URL that is none": (
        ModelSpec,
        {"provider": "openai", "baseURL": "localhost"},
        "baseURL: String should match pattern",
    ),
    "a schedule of four fields": (
        CronSpec,
        {"schedule": "* * * *", "workflowSpec": step()},
        "schedule: String should match pattern",
    ),
    "a template that is stopped": (
        TemplateSpec,
        {**step(), "shutdown": "Stop"},
        "shutdown: Extra inputs are not permitted",
    ),
    "a quantity that is none": (
        PoolSpec,
        {"agentRef": {"name": "a"}, "template": {"resources": {"limits": {"cpu": True}}}},
        "template.resources.limits.cpu: Input should be a valid string",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_names_the_field_of(what: str) -> None:
    cls, given, message = MISTAKES[what]
    with pytest.raises(ValidationError) as caught:
        cls.model_validate(given, extra="forbid")
    found = [
        f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in caught.value.errors()
    ]
    assert any(message in line for line in found), found


DURATIONS = {"90s": 90, "5m": 300, "1h30m": 5400, "168h": 604_800, "250ms": 0.25, "1m5s5ms": 65.005}


@pytest.mark.parametrize("text", DURATIONS)
def test_length_of_a_duration(text: str) -> None:
    assert seconds(text) == pytest.approx(DURATIONS[text])


@pytest.mark.parametrize("text", ["", "5", "1.5h", "-5s", "1d", "5 m", "123456s", "1h1h1h1h1h"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(text)


def test_whole_cpus_may_be_numbers() -> None:
    given = {"agentRef": {"name": "a"}, "template": {"resources": {"limits": {"cpu": 2}}}}
    read = PoolSpec.model_validate(given, extra="forbid")
    assert read.to_json()["template"]["resources"]["limits"] == {"cpu": "2"}
