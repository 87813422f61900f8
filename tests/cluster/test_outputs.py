"""Large outputs and wide fan-outs on a real cluster: kept whole, in order, in a small status."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from cluster.config import VOLUME
from tests.cluster import processes
from tests.cluster.conftest import fresh_namespace
from tests.cluster.harness import Json, condition, manifest, phases, rows, why
from tests.cluster.lab import Lab, agent, each, kill_operator, step, workflow
from tests.cluster.terminal import corral

LARGE = "größer " * 5000
RULES: Json = {
    "latency": "10ms",
    "rules": [
        {"match": "^large", "reply": LARGE},
        {"match": "^document", "json": {"score": 7, "text": LARGE}},
        {"match": "^slow", "latency": "2s", "reply": LARGE},
    ],
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_namespace() as cluster:
        made = Lab(cluster)
        made.build(RULES, *agent("worker", replicas=2, concurrency=60))
        yield made


def compute(name: str, to: str, *after: str, **more: Any) -> Json:
    made: Json = {"name": name, "transform": to, **more}
    return made | ({"dependsOn": list(after)} if after else {})


def printed(lab: Lab, *words: str) -> str:
    done = corral(lab.cluster, "output", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def size_of(found: Json) -> int:
    return len(json.dumps(found["status"]))


def test_a_large_output_is_a_reference_that_expressions_see_whole(lab: Lab) -> None:
    schema = {"type": "object", "required": ["score", "text"]}
    lab.make(
        workflow(
            "large",
            step("text", input="large"),
            step(
                "document",
                input="document",
                outputSchema=schema,
                extract={"score": "output.score", "size": "size(output.text)"},
            ),
            step("many", input="large $(item)", **each(1, 2, 3)),
            compute(
                "sizes",
                "$([size(steps.text.output), size(steps.document.output.text),"
                " sum(steps.many.outputs.map(one, size(one)))])",
                "text",
                "document",
                "many",
            ),
            compute("good", "yes", "document", when="steps.document.extract.score > 5"),
            step("next", "text", input="next $(steps.text.output.substring(0, 6))"),
            compute("copy", "$(steps.text.output)", "text"),
            output="$(steps.copy.output)",
        )
    )
    found = lab.cluster.finished("large")
    assert found["status"]["phase"] == "Succeeded", found["status"].get("message")
    size = len(LARGE)
    assert rows(found)["sizes"]["output"] == [size, size, 3 * size]
    assert rows(found)["document"]["extract"] == {"score": 7, "size": size}
    assert phases(found)["good"] == "Succeeded"
    assert rows(found)["next"]["output"] == "A simulated answer to: next größer"
    content = json.dumps(LARGE, ensure_ascii=False).encode()
    reference = found["status"]["output"]
    assert reference["sha256"] == hashlib.sha256(content).hexdigest()
    assert reference["size"] == len(content)
    assert found["metadata"]["uid"] in reference["reference"]
    assert rows(found)["copy"]["output"] == rows(found)["text"]["output"] == reference
    assert size_of(found) < 20_000
    assert printed(lab, "large").rstrip("\n") == LARGE.rstrip("\n")
    assert json.loads(printed(lab, "large", "--step", "document", "-o", "json"))["text"] == LARGE
    assert printed(lab, "large", "--step", "many", "--item", "2").strip() == LARGE.strip()
    assert json.loads(printed(lab, "large", "--step", "many")) == [LARGE] * 3


WIDE = 1000


def test_a_thousand_items_with_failures_that_are_tolerated(lab: Lab) -> None:
    """One in ten fails; the outputs are small, all the same large, or of 1 KB and all different."""
    model = """
        provider: simulated
        simulation: {reply: ok, failurePercent: 10, seed: 3}
        price: {inputPerMillionUSD: "1", outputPerMillionUSD: "1"}
    """
    lab.cluster.apply(manifest("Model", "flaky", model))
    flaky, pool = agent("flaky", model="flaky", concurrency=60)
    lab.make(flaky, pool)
    different = [
        {"match": f"^different {n}$", "fault": "Quota"}
        if n % 10 == 3
        else {"match": f"^different {n}$", "reply": distinct(n)}
        for n in range(WIDE)
    ]
    lab.answer_by(RULES | {"rules": [*different, *RULES["rules"]]})
    tolerant = {"tolerateFailures": "20%"}
    items = each(*range(WIDE), **tolerant)
    more = compute("count", "$(size(steps.wide.outputs))", "wide")
    lab.make(
        workflow(
            "wide",
            step("wide", agent="flaky", input="item $(item)", **items),
            more,
            output="$(steps.wide.items.filter(i, i.phase == 'Failed').size())",
        ),
        workflow("different", step("wide", input="different $(item)", **items), more),
    )
    found = lab.cluster.all_finished("wide", "different", timeout=240)
    for one in found.values():
        assert one["status"]["phase"] == "Succeeded", one["status"].get("message")
        assert condition(one, "Degraded") == "True"
        assert size_of(one) < 200_000
        assert len(one["status"]["attention"]) == 16
    counts = rows(found["wide"])["wide"]["items"]
    assert counts["total"] == WIDE
    assert counts["succeeded"] + counts["failed"] == WIDE
    assert 60 <= counts["failed"] <= 140
    assert found["wide"]["status"]["output"] == counts["failed"]
    assert f"{counts['failed']} of {WIDE} items failed" in why(found["wide"], "Degraded")
    assert found["wide"]["status"]["usage"]["requests"] == WIDE
    assert Decimal(found["wide"]["status"]["usage"]["costUSD"]) == Decimal("0.00007") * WIDE

    outputs = json.loads(printed(lab, "different", "--step", "wide"))
    assert outputs == [distinct(n) for n in range(WIDE) if n % 10 != 3]
    assert rows(found["different"])["count"]["output"] == len(outputs) == 900
    calls = lab.calls(found["different"]["metadata"]["uid"])
    assert sorted(call["lastUser"] for call in calls) == sorted(
        f"different {n}" for n in range(WIDE)
    )


def distinct(number: int) -> str:
    """About 1 KB that no other number has, and that does not compress well."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return f"{number} " + "".join(
        hashlib.sha256(f"{digest}{part}".encode()).hexdigest() for part in range(16)
    )


@contextmanager
def no_store() -> Iterator[None]:
    """The artifact store's volume can be neither read nor written."""
    volume = processes.folder() / VOLUME
    mode = volume.stat().st_mode
    volume.chmod(0)
    try:
        yield
    finally:
        volume.chmod(mode)


def test_nothing_is_lost_while_the_store_is_not_there(lab: Lab) -> None:
    run = lab.start(
        workflow(
            "stranded",
            step("one", input="slow one"),
            compute("size", "$(size(steps.one.output))", "one"),
            step("last", "size", input="last $(steps.size.output)"),
        )
    )
    small = workflow("untouched", step("a"), step("b", "a"))
    lab.until_called(run)
    with no_store():
        time.sleep(4)
        lab.make(small)
        assert lab.cluster.finished("untouched")["status"]["phase"] == "Succeeded"
        stranded = lab.cluster.get("workflow", "stranded")
        assert phases(stranded)["size"] == "Pending"
        assert corral(lab.cluster, "output", "large").returncode == 1
        kill_operator()
        time.sleep(1)
    found = lab.cluster.finished("stranded")
    assert found["status"]["phase"] == "Succeeded", found["status"].get("message")
    lab.called_once_each(run, {"slow one", f"last {len(LARGE)}"})
    assert printed(lab, "large").strip() == LARGE.strip()
