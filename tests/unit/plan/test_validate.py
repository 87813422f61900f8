"""What is told to be wrong with a Workflow before anything starts."""

import pytest
from pydantic import ValidationError

from tests.unit.plan.driver import problems, spec_of

A = "{name: a, agentRef: {name: x}}"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(
            "{}", "spec: exactly one of steps and workflowTemplateRef must be set", id="no steps"
        ),
        pytest.param(
            f"steps: [{A}, {A}]",
            "spec.steps[1].name: there is a step 'a' already",
            id="a doubled name",
        ),
        pytest.param(
            f"steps: [{A}]\nonExit: [{A}]",
            "spec.onExit[0].name: there is a step 'a' already",
            id="a name of both steps and onExit",
        ),
        pytest.param(
            "steps: [{name: in, agentRef: {name: x}}]",
            "spec.steps[0].name: 'in' is a word of the expression language",
            id="a keyword as name",
        ),
        pytest.param("steps: [{name: a}]", "it has none", id="a step of no kind"),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, transform: b}]",
            "it has agentRef and transform",
            id="a step of two kinds",
        ),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, dependsOn: [a]}]",
            "spec.steps[0].dependsOn[0]: step 'a' depends on itself",
            id="a self-edge",
        ),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, dependsOn: [b]}]",
            "spec.steps[0].dependsOn[0]: there is no step 'b'",
            id="an unknown dependency",
        ),
        pytest.param(
            f"steps: [{A}, {{name: b, transform: '1', dependsOn: [a, a]}}]",
            "spec.steps[1].dependsOn[1]: step 'a' is listed twice",
            id="a doubled dependency",
        ),
        pytest.param(
            f"steps: [{{name: b, transform: '1', dependsOn: [a]}}, {A}]",
            "step 'a' comes later in the list",
            id="a dependency that is listed later",
        ),
        pytest.param(
            f"steps: [{A}]\nonExit: [{{name: e, transform: '1', dependsOn: [a]}}]",
            "spec.onExit[0].dependsOn[0]: there is no step 'a'",
            id="an onExit step that depends on a main step",
        ),
        pytest.param(
            "steps: [{name: a, transform: '1', triggerRule: AnyFailed}]",
            "spec.steps[0].triggerRule: AnyFailed never holds without dependsOn",
            id="AnyFailed without dependencies",
        ),
        pytest.param(
            "steps: [{name: a, transform: '1', retryStrategy: {limit: 1}}]",
            "retryStrategy: only a step that calls an agent, a tool or a workflow has it",
            id="retries of what calls nothing",
        ),
        pytest.param(
            "steps: [{name: a, wait: {duration: 1s}, timeout: 1s}]",
            "spec.steps[0].timeout: only a step that calls an agent or a tool has it",
            id="a timeout of what calls no agent",
        ),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, outputSchema: {type: nonsense}}]",
            "spec.steps[0].outputSchema: is no JSON Schema",
            id="a schema that is none",
        ),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, forEach: {}}]",
            "exactly one of items, itemsFrom and configMapKeyRef",
            id="a fan-out without items",
        ),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, forEach: {items: [1], itemsFrom: '$([1])'}}]",
            "exactly one of items, itemsFrom and configMapKeyRef",
            id="a fan-out with items from two places",
        ),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, forEach: {itemsFrom: 'no $([1])'}}]",
            "must be one expression that gives a list",
            id="itemsFrom that is text",
        ),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, forEach: {items: [1], as: output}}]",
            "spec.steps[0].forEach.as: 'output' has a meaning already",
            id="an item called like something else",
        ),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, forEach: {items: [1], as: list}}]",
            "spec.steps[0].forEach.as: 'list' is a word of the expression language",
            id="an item called like a type",
        ),
        pytest.param(
            "steps: [{name: a, agentRef: {name: x}, retryStrategy: {limit: 1, "
            "backoff: {duration: 5m, maxDuration: 1m}}}]",
            "maxDuration: 1m is shorter than duration, 5m",
            id="a backoff that starts above its maximum",
        ),
    ],
)
def test_the_structure_is_refused_for(spec: str, expected: str) -> None:
    assert [p for p in problems(spec) if expected in p], problems(spec)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param("input: $(topic)", "undeclared reference to 'topic'", id="an unknown name"),
        pytest.param(
            "input: $(arguments.nope)", "there is no argument 'nope'", id="an unknown argument"
        ),
        pytest.param("input: $(steps.nope.output)", "there is no step 'nope'", id="unknown step"),
        pytest.param(
            '''input: "$(steps['nope'].output)"''', "there is no step 'nope'", id="an indexed step"
        ),
        pytest.param(
            "input: $(steps.other.output)",
            "step 'other' may not have ended; add it to dependsOn",
            id="a step that is no ancestor",
        ),
        pytest.param(
            "input: $(steps.s.output)", "step 's' may not have ended", id="the step's own output"
        ),
        pytest.param("input: $(steps.b.result)", "and no 'result'", id="an unknown field"),
        pytest.param(
            "input: $(steps.fan.output)",
            "step 'fan' is a fan-out; it has outputs and items, no output",
            id="a fan-out's output",
        ),
        pytest.param("input: $(workflow.cost)", "and no 'cost'", id="an unknown workflow field"),
        pytest.param("input: $(output)", "undeclared reference to 'output'", id="output in input"),
        pytest.param("input: $(item)", "undeclared reference to 'item'", id="item without forEach"),
        pytest.param("input: $(1", "never closed", id="an expression without an end"),
        pytest.param("inputData: {a: [$(nope)]}", "'nope'", id="a name deep in inputData"),
        pytest.param("when: nope", "undeclared reference to 'nope'", id="a name in when"),
        pytest.param("when: index == 0", "undeclared reference to 'index'", id="index in when"),
        pytest.param("extract: {n: outputs}", "extract.n: step 's'", id="a name in extract"),
    ],
)
def test_a_bad_expression_is_refused_for(step: str, expected: str) -> None:
    found = problems(f"""
arguments: {{topic: t}}
steps:
- {{name: b, transform: '1'}}
- {{name: other, transform: '1'}}
- {{name: fan, transform: '1', forEach: {{items: [1]}}}}
- {{name: s, dependsOn: [b, fan], agentRef: {{name: x}}, {step.replace("$(topic)", "$(topic)")}}}
""")
    assert len(found) == 1
    assert expected in found[0]
    assert found[0].startswith("spec.steps[3].")
    assert "step 's': " in found[0]


@pytest.mark.parametrize(
    "step",
    [
        "input: $(steps.b.output) $(steps.fan.outputs) $(arguments.topic)",
        "input: $(steps.root.output)",
        "input: '$(arguments.?nope.orValue(1))'",
        "input: '$(has(arguments.nope) ? arguments.nope : 1)'",
        "input: $(index) $(attempt) $(iteration) $(previous)",
        "input: $('steps.nope')",
        "input: $(workflow.name) $(workflow.failedSteps)",
        "input: $(q), forEach: {items: [1], as: q}",
        "extract: {n: output.n + size(steps.fan.items)}",
        "when: steps.b.phase == 'Succeeded'",
    ],
)
def test_a_good_expression_is_accepted(step: str) -> None:
    spec = f"""
arguments: {{topic: t}}
steps:
- {{name: root, transform: '1'}}
- {{name: b, transform: '1', dependsOn: [root]}}
- {{name: fan, transform: '1', forEach: {{items: [1]}}}}
- {{name: s, dependsOn: [b, fan], agentRef: {{name: x}}, {step}}}
"""
    assert problems(spec) == []


def test_the_output_may_use_every_step_and_nothing_else() -> None:
    assert problems(f"steps: [{A}]\noutput: $(steps.a.output)") == []
    (problem,) = problems(f"steps: [{A}]\noutput: $(steps.b.output)")
    assert problem == "spec.output: steps.b.output: there is no step 'b'"


def test_an_exit_step_may_use_every_step_and_only_ancestors_among_its_own() -> None:
    exits = "[{name: e, transform: $(steps.a.phase)}, {name: f, transform: $(steps.e.output)}]"
    (problem,) = problems(f"steps: [{A}]\nonExit: {exits}")
    assert problem.startswith("spec.onExit[1].transform: step 'f'")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        pytest.param(
            "approval: {prompt: p, approvers: [{kind: User, name: u}]}, forEach: {items: [1]}",
            "spec.steps[0].forEach: an approval is asked for once; nest it in steps",
            id="an approval for each item",
        ),
        pytest.param(
            "wait: {duration: 1s}, loop: {until: 'true', maxIterations: 2}",
            "spec.steps[0].loop: a step with wait has no loop",
            id="a wait in a loop",
        ),
        pytest.param(
            "agentRef: {name: x}, loop: {until: 'true', maxIterations: 2, onExhausted: AcceptBest}",
            "spec.steps[0].loop.best: onExhausted: AcceptBest needs it",
            id="the best of a loop that does not say which that is",
        ),
        pytest.param(
            "transform: '1', memoize: {key: k}",
            "spec.steps[0].memoize: only a step that calls an agent or a tool has it",
            id="a transform that is memoized",
        ),
        pytest.param(
            "steps: [{name: i, transform: '1'}, {name: i, transform: '1'}]",
            "spec.steps[0].steps[1].name: there is a step 'i' already",
            id="nested steps of one name",
        ),
        pytest.param(
            "steps: [{name: i, transform: '1', dependsOn: [j]}]",
            "spec.steps[0].steps[0].dependsOn[0]: there is no step 'j'",
            id="a nested step that depends on what is not there",
        ),
        pytest.param(
            "steps: [{name: i, transform: $(steps.a.phase)}]",
            "spec.steps[0].steps[0].transform: step 'i': steps.a.phase: step 'a' may not have",
            id="a nested step that names the step around it",
        ),
        pytest.param(
            "steps: [{name: i, transform: '1'}], output: $(steps.j.output)",
            "spec.steps[0].output: step 'a': steps.j.output: there is no step 'j'",
            id="an output of a nested step that is not there",
        ),
        pytest.param(
            "agentRef: {name: x}, loop: {until: outputs == 1, maxIterations: 2}",
            "spec.steps[0].loop.until: step 'a'",
            id="a name in until",
        ),
        pytest.param(
            "tool: {mcp: {url: 'http://x'}, name: t, arguments: {a: [$(nope)]}}",
            "spec.steps[0].tool.arguments: step 'a'",
            id="a name in a tool's arguments",
        ),
        pytest.param(
            "workflow: {templateRef: {name: t}, arguments: {a: $(nope)}}",
            "spec.steps[0].workflow.arguments: step 'a'",
            id="a name in a child's arguments",
        ),
        pytest.param(
            "approval: {prompt: $(nope), approvers: [{kind: User, name: u}]}",
            "spec.steps[0].approval.prompt: step 'a'",
            id="a name in a prompt",
        ),
        pytest.param(
            "agentRef: {name: x}, memoize: {key: $(nope)}",
            "spec.steps[0].memoize.key: step 'a'",
            id="a name in a memoize key",
        ),
    ],
)
def test_a_step_of_a_kind_is_refused_for(step: str, expected: str) -> None:
    found = problems(f"steps: [{{name: a, {step}}}]")
    assert [problem for problem in found if expected in problem], found


@pytest.mark.parametrize(
    "step",
    [
        "agentSelector: {matchCapabilities: [a]}, input: $(index), memoize: {key: $(index)}",
        "approval: {prompt: $(steps.b.output), approvers: [{kind: User, name: u}]}",
        "workflow: {templateRef: {name: t}, arguments: {a: $(steps.b.output)}}, "
        "retryStrategy: {limit: 1}",
        "tool: {mcp: {url: 'http://x'}, name: t, arguments: {a: [$(arguments.topic)]}}",
        "agentRef: {name: x}, loop: {until: output > 1 && iteration > 1, maxIterations: 3, "
        "onExhausted: AcceptBest, best: output}",
        "steps: [{name: b, transform: $(index) $(iteration) $(previous)}, "
        "{name: i, dependsOn: [b], transform: $(steps.b.output)}], output: $(steps.i.output)",
        "forEach: {items: [1], as: doc}, steps: [{name: i, when: doc > 0, transform: $(doc)}]",
    ],
)
def test_a_step_of_every_kind_is_accepted(step: str) -> None:
    spec = f"""
arguments: {{topic: t}}
steps:
- {{name: b, transform: '1'}}
- {{name: s, dependsOn: [b], {step}}}
"""
    assert problems(spec) == []


def test_nested_steps_without_output_have_none_to_refer_to() -> None:
    (problem,) = problems("""
steps:
- {name: a, steps: [{name: i, transform: '1'}]}
- {name: b, dependsOn: [a], transform: $(steps.a.output)}
""")
    assert problem.endswith("step 'a' says no output of its nested steps")


@pytest.mark.parametrize(
    "step",
    [
        "timeout: 0s",
        "deadline: 0s",
        "timeout: -1s",
        "forEach: {items: [1], maxConcurrent: 0}",
        "forEach: {items: [1], maxItems: 0}",
        "forEach: {items: [1], tolerateFailures: -1}",
        "forEach: {items: [1], tolerateFailures: 101%}",
        "forEach: {items: [1], tolerateFailures: some}",
        "retryStrategy: {limit: -1}",
        "retryStrategy: {limit: 1, backoff: {duration: 0s}}",
        "retryStrategy: {limit: 1, backoff: {factor: 0}}",
        "retryStrategy: {limit: 1, backoff: {jitterPercent: 101}}",
        "retryStrategy: {limit: 1, onErrors: []}",
        "retryStrategy: {limit: 1, onErrors: [Sadness]}",
        "name: A",
        "name: 1a",
        "name: " + "a" * 64,
        "triggerRule: Sometimes",
    ],
)
def test_a_value_out_of_range_is_refused(step: str) -> None:
    base = "" if step.startswith("name:") else "name: a, "
    with pytest.raises(ValidationError):
        spec_of(f"steps: [{{{base}agentRef: {{name: x}}, {step}}}]")


def test_the_widest_graph_is_checked_quickly() -> None:
    steps = [f"{{name: s{i}, agentRef: {{name: x}}, input: hi}}" for i in range(255)]
    names = ", ".join(f"s{i}" for i in range(32))
    join = f"{{name: last, dependsOn: [{names}], transform: $(steps.s0.output)}}"
    assert problems(f"steps: [{', '.join([*steps, join])}]") == []
