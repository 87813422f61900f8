"""What single steps do: order, conditions, inputs, outputs, waits."""

from typing import Any

import pytest

from tests.unit.plan.driver import Simulation, fails, ok, run


def test_a_step_starts_when_what_it_depends_on_has_ended() -> None:
    sim = run(
        """
steps:
- {name: a, agentRef: {name: x}}
- {name: b, agentRef: {name: x}}
- {name: c, agentRef: {name: x}, dependsOn: [a, b]}
""",
        {"a": ok(takes=2), "b": ok(takes=5)},
    )
    assert sim.starts == [("a", 0), ("b", 0), ("c", 5)]
    assert sim.status.phase == "Succeeded"
    assert sim.status.progress == "3/3"


@pytest.mark.parametrize(
    ("when", "phase"),
    [
        ("size(steps.a.output) == 4", "Succeeded"),
        ("size(steps.a.output) > 4", "Skipped"),
        ("steps.a.?output.orValue('') == 'done'", "Succeeded"),
        ("arguments.go", "Skipped"),
        ("workflow.name == 'report' && workflow.namespace == 'demo'", "Succeeded"),
        ("steps.a.output", "Failed"),
        ("steps.a.output.n > 1", "Failed"),
    ],
)
def test_when_decides_whether_a_step_runs(when: str, phase: str) -> None:
    sim = run(f"""
arguments: {{go: false}}
steps:
- {{name: a, agentRef: {{name: x}}}}
- {{name: b, dependsOn: [a], agentRef: {{name: x}}, when: "{when}"}}
""")
    assert sim.phases["b"] == phase
    assert sim.status.phase == ("Failed" if phase == "Failed" else "Succeeded")
    row = sim.row("b")
    assert row.reason == {"Failed": "InvalidExpression", "Skipped": "Skipped"}.get(phase)
    if phase != "Succeeded":
        assert when in (row.message or "")


def test_what_was_skipped_is_done_for_dependents_and_absent_in_expressions() -> None:
    sim = run("""
steps:
- {name: a, transform: '1', when: 'false'}
- {name: b, dependsOn: [a], transform: "$(steps.a.?output.orValue('none'))"}
- {name: c, dependsOn: [a], transform: $(has(steps.a.output))}
- {name: d, dependsOn: [a], transform: $(steps.a.phase)}
""")
    assert [sim.row(name).output for name in "bcd"] == ["none", False, "Skipped"]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("input: plain", "plain"),
        ("input: Say $(arguments.topic).", "Say tea."),
        ("input: $(arguments.n)", "2"),
        ("input: '$(arguments.n + 1)'", "3"),
        ("input: $(arguments.list)", "[1,2]"),
        ("input: $(workflow.runID)/$(workflow.phase)", "run-1/Running"),
        ("input: $(index) $(attempt) $(iteration) $(previous)", "0 1 1 null"),
        ("input: costs $$(5)", "costs $(5)"),
    ],
)
def test_an_input_is_rendered_as_text(step: str, text: str) -> None:
    sim = run(f"""
arguments: {{topic: tea, n: 2.0, list: [1, 2]}}
steps: [{{name: a, agentRef: {{name: x}}, {step}}}]
""")
    assert sim.input_of("a") == text


def test_input_data_keeps_types_and_the_schema_goes_along() -> None:
    sim = run("""
arguments: {n: 2, list: [1, {a: b}]}
steps:
- name: a
  agentRef: {name: x}
  inputData: {n: $(arguments.n), deep: [$(arguments.list)], text: n is $(arguments.n), k: null}
  outputSchema: {type: object, properties: {q: {type: string}}}
  timeout: 90s
""")
    assert sim.data_of("a") == {"n": 2, "deep": [[1, {"a": "b"}]], "text": "n is 2", "k": None}
    (sent,) = sim.started
    assert sent.payload.output_schema == {
        "type": "object",
        "properties": {"q": {"type": "string"}},
    }
    assert (sent.payload.timeout, sent.payload.input) == (90.0, None)


def test_an_attempt_has_the_agents_timeout_unless_the_step_says_otherwise() -> None:
    sim = run("steps: [{name: a, agentRef: {name: x}}]", timeout=42.0)
    assert sim.started[0].payload.timeout == 42.0


@pytest.mark.parametrize(
    ("transform", "output"),
    [
        ("$(arguments.n * 2)", 4),
        ("$([1, arguments.n])", [1, 2]),
        ("n=$(arguments.n)", "n=2"),
        ("plain", "plain"),
        ("$(null)", None),
    ],
)
def test_a_transform_computes_without_a_worker(transform: str, output: Any) -> None:
    sim = run(f"""
arguments: {{n: 2}}
steps: [{{name: a, transform: "{transform}"}}]
output: $(steps.a.output)
""")
    assert (sim.row("a").output, sim.status.output) == (output, output)
    assert sim.started == []
    assert sim.row("a").attempts is None
    assert sim.row("a").cost_usd is None


def test_a_chain_of_transforms_takes_one_pass() -> None:
    steps = ["{name: s0, transform: $(1)}"]
    steps += [
        f"{{name: s{i}, dependsOn: [s{i - 1}], transform: $(steps.s{i - 1}.output + 1)}}"
        for i in range(1, 50)
    ]
    sim = Simulation(f"steps: [{', '.join(steps)}]\noutput: $(steps.s49.output)")
    sim.tick()
    assert sim.status.output == 50


def test_a_wait_lets_time_pass_and_has_no_output() -> None:
    sim = run("""
steps:
- {name: a, wait: {duration: 1h30m}}
- {name: b, dependsOn: [a], agentRef: {name: x}}
""")
    assert sim.starts == [("b", 5400)]
    assert sim.row("a").output is None
    assert (sim.row("a").started_at, sim.row("a").finished_at) == (
        "2027-01-15T08:00:00.000Z",
        "2027-01-15T09:30:00.000Z",
    )


@pytest.mark.parametrize(
    "text",
    ["$(1 + 1)", "$$(x)", "steps.a.output", "')+$(arguments.secret)+('", '"$(arguments.secret)"'],
)
def test_what_a_model_says_is_never_evaluated(text: str) -> None:
    sim = run(
        """
arguments: {secret: hush}
steps:
- {name: a, agentRef: {name: x}}
- {name: b, dependsOn: [a], agentRef: {name: x}, input: "Got $(steps.a.output)"}
- {name: c, dependsOn: [a], agentRef: {name: x}, input: $(steps.a.output)}
- {name: d, dependsOn: [a], agentRef: {name: x}, inputData: {t: $(steps.a.output)}}
- {name: e, dependsOn: [a], transform: $(steps.a.output)}
- {name: f, dependsOn: [e], agentRef: {name: x}, input: $(steps.e.output)}
- name: g
  dependsOn: [a]
  agentRef: {name: x}
  forEach: {itemsFrom: "$([steps.a.output])"}
  input: $(item)
output: $(steps.e.output)
""",
        {"a": ok(text)},
    )
    assert sim.input_of("b") == f"Got {text}"
    assert [sim.input_of(name) for name in "cfg"] == [text] * 3
    assert sim.data_of("d") == {"t": text}
    assert sim.status.output == text
    assert "hush" not in sim.status.model_dump_json(exclude={"journal"})


def test_a_failing_input_fails_its_step_before_a_worker_sees_it() -> None:
    sim = run(
        """
failFast: false
steps:
- {name: a, agentRef: {name: x}, input: $(arguments.?list.orValue([])[3])}
- {name: b, agentRef: {name: x}}
""".replace("$(arguments.?list.orValue([])[3])", '"$(arguments.?list.orValue([])[3])"')
    )
    assert sim.starts == [("b", 0)]
    assert sim.row("a").reason == "InvalidExpression"
    assert "Index error" in (sim.row("a").message or "")


def test_an_item_whose_input_fails_gives_its_place_to_the_next() -> None:
    sim = run("""
failFast: false
steps:
- name: a
  agentRef: {name: x}
  forEach: {items: [{}, {}, {n: 1}], maxConcurrent: 1, tolerateFailures: 2}
  input: $(item.n)
""")
    assert sim.starts == [("a[2]", 0)]
    assert sim.phases == {"a": "Succeeded"}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param("x" * 5_000_000, "is over 4194304", id="too long"),
        pytest.param(float("nan"), "nan, which JSON cannot", id="NaN"),
        pytest.param({"a": ["\ud800"]}, "no Unicode", id="half of a surrogate pair"),
        pytest.param(
            __import__("functools").reduce(lambda inner, _: [inner], range(300), []),
            "levels deep",
            id="nested without end",
        ),
    ],
)
def test_an_output_that_no_journal_can_hold_is_invalid_and_retried(
    output: Any, message: str
) -> None:
    retry = "retryStrategy: {limit: 1, onErrors: [InvalidOutput]}"
    spec = f"steps: [{{name: a, agentRef: {{name: x}}, {retry}}}]"
    sim = run(spec, {"a#1": ok(output)})
    assert sim.phases == {"a": "Succeeded"}
    failed = run(spec, {"a": ok(output)})
    assert failed.row("a").reason == "InvalidOutput"
    assert message in (failed.row("a").message or "")
    assert failed.row("a").cost_usd == "0.02"


def test_whole_numbers_of_an_output_are_ints_for_expressions() -> None:
    sim = run(
        """
steps:
- {name: a, agentRef: {name: x}}
- {name: b, dependsOn: [a], transform: $(steps.a.output.score + 1)}
""",
        {"a": ok({"score": 2.0})},
    )
    assert sim.row("b").output == 3


@pytest.mark.parametrize(
    ("extract", "expected"),
    [
        ("{n: output.n}", {"n": 3}),
        ("{n: output.n, big: output.n > 2}", {"n": 3, "big": True}),
        ("{n: 'output.?m.orValue(0)'}", {"n": 0}),
    ],
)
def test_extracted_values_are_on_the_row_and_in_expressions(extract: str, expected: Any) -> None:
    sim = run(
        f"""
steps:
- {{name: a, agentRef: {{name: x}}, extract: {extract}}}
- {{name: b, dependsOn: [a], transform: $(steps.a.extract)}}
""",
        {"a": ok({"n": 3})},
    )
    assert sim.row("a").extract == expected
    assert sim.row("b").output == expected


@pytest.mark.parametrize(
    ("extract", "message"),
    [
        ("{n: output.nope}", "extract: output.nope: there is no 'nope'"),
        ("{n: output.text}", "extract: n: 2002 bytes are more than 1024"),
    ],
)
def test_an_extract_that_fails_fails_its_step(extract: str, message: str) -> None:
    sim = run(
        f"steps: [{{name: a, agentRef: {{name: x}}, extract: {extract}}}]",
        {"a": ok({"text": "x" * 2000})},
    )
    assert sim.phases == {"a": "Failed"}
    assert message in (sim.row("a").message or "")


def test_an_extract_sees_its_step_as_it_is_after_it() -> None:
    sim = run("""
steps:
- {name: a, transform: $(1), extract: {n: size(steps)}}
- {name: b, dependsOn: [a], transform: $(steps.a.extract.n)}
""")
    assert sim.phases == {"a": "Succeeded", "b": "Succeeded"}


def test_dynamic_access_to_steps_sees_all_of_them() -> None:
    sim = run("""
arguments: {which: a}
steps:
- {name: a, transform: $(1)}
- {name: b, transform: $(2)}
- {name: c, dependsOn: [a, b], transform: "$(steps[arguments.which].output + steps.b.output)"}
""")
    assert sim.row("c").output == 3


def test_allowed_failures_are_done_for_dependents_and_degrade_the_run() -> None:
    sim = run(
        """
steps:
- {name: a, agentRef: {name: x}, allowFailure: true}
- {name: b, dependsOn: [a], transform: $(has(steps.a.output))}
""",
        {"a": fails()},
    )
    assert sim.phases == {"a": "Failed", "b": "Succeeded"}
    assert sim.row("b").output is False
    assert sim.status.phase == "Succeeded"
    assert sim.condition("Degraded").message == "step a: no good"
    assert sim.condition("Stalled").status == "False"


@pytest.mark.parametrize(
    "step",
    [
        "transform: $(arguments.list[9])",
        "transform: '1', when: arguments.list",
        "transform: '1', extract: {n: output.x}",
        "transform: '1', forEach: {itemsFrom: $(arguments.list), maxItems: 1}",
        "agentRef: {name: x}, input: '$(arguments.list[9])'",
        "wait: {duration: 1h}, deadline: 1m",
    ],
)
def test_every_kind_of_failure_can_be_allowed(step: str) -> None:
    step = step.replace("$(arguments.list[9])", "'$(arguments.list[9])'").replace("''", "'")
    sim = run(f"""
arguments: {{list: [1, 2]}}
steps: [{{name: a, allowFailure: true, {step}}}]
""")
    assert (sim.phases, sim.status.phase) == ({"a": "Failed"}, "Succeeded")
    assert sim.has_condition("Degraded")


@pytest.mark.parametrize(
    ("output", "phase", "message"),
    [
        ("$(steps.a.output)", "Succeeded", None),
        ("got $(steps.a.output)!", "Succeeded", None),
        ("$(steps.a.output.nope)", "Failed", "spec.output: steps.a.output.nope"),
        ("$(steps.b.output)", "Failed", "there is no 'output'"),
    ],
)
def test_an_output_that_fails_fails_the_run(output: str, phase: str, message: str | None) -> None:
    sim = run(f"""
steps: [{{name: a, transform: x}}, {{name: b, transform: x, when: 'false'}}]
output: {output}
""")
    assert sim.status.phase == phase
    if message is None:
        assert sim.status.message is None
    else:
        assert message in (sim.status.message or "")
        assert sim.status.output is None


def test_an_output_whose_expression_is_huge_leaves_a_message_that_fits() -> None:
    sim = run(f'steps: [{{name: a, transform: x}}]\noutput: "$(steps.a.output.nope{" " * 60000})"')
    assert len(sim.status.message or "") <= 4096
