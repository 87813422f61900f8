"""Graphs as Mermaid and DOT: what they tell, and that others can read them."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from corral.api.workflow import StepPhase, WorkflowStatus
from corral.cli.drawing import dot, mermaid
from corral.cli.graph import drawing_of
from corral.cli.view import RunView
from corral.plan.state import Node, Run, Step, to_journal
from tests.unit.cli.conftest import Corral
from tests.unit.cli.fake_cluster import DEMO, WORKFLOWS, Api

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pydot

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
SPEC: dict[str, Any] = {
    "arguments": {"topics": [1]},
    "steps": [
        {"name": "end", "agentRef": {"name": "x"}, "input": "hi"},
        {
            "name": "graph",
            "dependsOn": ["end"],
            "agentRef": {"name": "x"},
            "when": 'steps.end.output == "a<b> & \\"q\\" # `x` %%{}%%"',
        },
        {
            "name": "outer",
            "dependsOn": ["end", "graph"],
            "triggerRule": "AnySucceeded",
            "forEach": {"itemsFrom": "$(arguments.topics)", "as": "topic", "maxConcurrent": 2},
            "steps": [
                {"name": "end", "agentSelector": {"matchCapabilities": ["research"]}},
                {"name": "subgraph", "dependsOn": ["end"], "wait": {"duration": "1s"}},
            ],
        },
        {
            "name": "sure",
            "dependsOn": ["outer"],
            "approval": {"prompt": "?", "approvers": [{"kind": "User", "name": 'joe "x"\\y'}]},
        },
        {
            "name": "again",
            "dependsOn": ["sure"],
            "agentRef": {"name": "x"},
            "loop": {"until": "output.score > 1", "maxIterations": 4},
            "memoize": {"key": "k"},
            "allowFailure": True,
        },
        {"name": "child", "dependsOn": ["sure"], "workflow": {"templateRef": {"name": "t"}}},
        {
            "name": "call",
            "dependsOn": ["sure"],
            "tool": {"mcp": {"url": "http://m"}, "name": "search"},
        },
        {"name": "sum", "dependsOn": ["call"], "transform": "1"},
    ],
    "onExit": [{"name": "bye", "agentRef": {"name": "x"}}],
}


def view(status: dict[str, Any] | None = None) -> RunView:
    metadata = {"name": 'w "x"', "namespace": "demo"}
    return RunView.of({"metadata": metadata, "spec": SPEC, "status": status or {}})


def drawn(status: dict[str, Any] | None = None) -> Any:
    shown = view(status)
    return drawing_of(shown.name, shown.steps, shown.on_exit, shown if status else None)


def parsed(text: str) -> Any:
    (graph,) = pydot.graph_from_dot_data(text)
    return graph


def nodes(graph: Any) -> dict[str, Any]:
    """All nodes of a graph by name, those of its clusters included."""
    found = {
        node.get_name().strip('"'): node
        for node in graph.get_nodes()
        if node.get_name() not in ("node", "edge", '"\\n"')
    }
    for inner in graph.get_subgraphs():
        found |= nodes(inner)
    return found


def test_dot_can_be_parsed_and_has_every_step_and_dependency() -> None:
    graph = parsed(dot(drawn()))
    found = nodes(graph)
    assert sorted(found) == sorted(
        [
            *("s_end", "s_graph", "s_outer.end", "s_outer.subgraph", "s_sure", "s_again"),
            *("s_child", "s_call", "s_sum", "x_bye"),
        ]
    )
    clusters = [inner.get_name().strip('"') for inner in graph.get_subgraphs()]
    assert clusters == ["cluster_s_outer", "cluster_on_exit"]
    edges = {
        (edge.get_source().strip('"'), edge.get_destination().strip('"')): edge
        for edge in graph.get_edges()
    }
    assert len(edges) == 9
    into = edges["s_end", "s_outer.end"]
    assert (into.get_label(), into.get("lhead")) == ('"AnySucceeded"', '"cluster_s_outer"')
    assert edges["s_outer.subgraph", "s_sure"].get("ltail") == '"cluster_s_outer"'
    assert found["s_sure"].get("shape") == "hexagon"
    assert found["s_sure"].get_label() == '"sure\\napproval by joe \\"x\\"\\\\y"'


def test_labels_say_what_a_step_does() -> None:
    text = mermaid(drawn())
    assert 's_again("again<br/>Agent x<br/>loop ≤ 4 until output.score #62; 1' in text
    assert "memoized by key<br/>may fail" in text
    assert 'subgraph s_outer["outer<br/>for each topic, 2 at once"]' in text
    assert 's_outer.end("end<br/>Agent that can research")' in text
    assert 's_outer.subgraph(["subgraph<br/>wait 1s"])' in text
    assert 's_child[["child<br/>template t"]]' in text
    assert 's_call["call<br/>tool search"]' in text
    assert 's_sum[/"sum<br/>transform"/]' in text
    assert 's_end -->|"AnySucceeded"| s_outer' in text


_ID = r"[a-z_][\w.]*"
_TEXT = r'"[^"#;&<>`%\\]*(?:(?:#\d+;|<br/>)[^"#;&<>`%\\]*)*"'
_LINES = [
    r"---",
    r"title: '.*'",
    r"flowchart TD",
    rf" +subgraph {_ID}\[{_TEXT}\]",
    r" +end",
    rf" +{_ID}(\(|\[|\[\[|\{{\{{|\(\[|\[/){_TEXT}(\)|\]|\]\]|\}}\}}|\]\)|/\])(:::[A-Z]\w+)?",
    rf" +{_ID} -->(\|{_TEXT}\|)? {_ID}",
    r" +classDef [A-Z]\w+ fill:#\w{6},stroke:#\w{6},color:#\w{3}",
    rf" +class {_ID}(,{_ID})* [A-Z]\w+",
]
"""All that the real parser was seen to take: what users write can't leave the quotes."""


@pytest.mark.parametrize("status", [None, {"phase": "Running"}])
def test_every_line_of_mermaid_is_of_a_known_form(status: dict[str, Any] | None) -> None:
    lines = mermaid(drawn(status)).splitlines()
    for line in lines:
        assert any(re.fullmatch(form, line) for form in _LINES), line
    assert (
        sum(line.strip() == "end" for line in lines) == sum("subgraph s_" in li for li in lines) + 1
    )


def test_a_running_workflow_has_colours_and_counts() -> None:
    inner = {"end": Step(phase=StepPhase.SUCCEEDED)}
    run = Run(run_id="r", steps={"outer": Step(nodes=[Node(steps=inner)], items=[1])})
    status = {
        "phase": "Running",
        "steps": [
            {"name": "end", "phase": "Succeeded", "memoized": True},
            {
                "name": "outer",
                "phase": "Running",
                "items": {"total": 6, "succeeded": 2, "running": 3, "waiting": 1},
            },
            {"name": "child", "phase": "Running", "child": "w-child-1"},
        ],
        "journal": to_journal(run),
    }
    WorkflowStatus.model_validate(status)
    text = mermaid(drawn(status))
    assert "title: 'w \"x\": Running'" in text
    assert 's_end("end<br/>Agent x<br/>memoized"):::Succeeded' in text
    assert "2 of 6 done, 3 running, 1 waiting" in text
    assert "class s_outer Running" in text
    assert "Workflow w-child-1" in text
    assert 's_outer.end("end<br/>Agent that can research")\n' in text, "items have phases"
    graph = parsed(dot(drawn(status)))
    assert nodes(graph)["s_end"].get("fillcolor") == '"#d3f0d3"'
    assert nodes(graph)["s_sum"].get("fillcolor") == '"#ffffff"'


def test_a_file_is_drawn_without_a_cluster(corral: Corral, tmp_path: Path) -> None:
    manifest = {
        "apiVersion": "corral.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "w"},
        "spec": {"steps": SPEC["steps"]},
    }
    file = tmp_path / "w.yaml"
    file.write_text(yaml.safe_dump(manifest))
    code, out, _ = corral("graph", str(file), "--kubeconfig", "/nowhere", cluster=False)
    assert code == 0
    assert out.startswith("---\ntitle: 'w'\n---\nflowchart TD\n")
    two = yaml.safe_dump_all([manifest, {**manifest, "metadata": {"name": "v"}}])
    code, _, err = corral("graph", "-", stdin=two, cluster=False)
    assert code == 2
    assert "there are several Workflows: w, v" in err
    assert corral("graph", "-", "--workflow", "v", "-o", "dot", stdin=two, cluster=False)[0] == 0


def test_what_is_in_the_cluster_is_drawn_with_its_phases(api: Api, corral: Corral) -> None:
    status = {"phase": "Running", "steps": [{"name": "end", "phase": "Failed"}]}
    api.put(f"{WORKFLOWS}/w", {"metadata": {"name": "w"}, "spec": SPEC, "status": status})
    assert ":::Failed" in corral("graph", "w")[1]
    assert ":::Failed" not in corral("graph", "w", "--no-status")[1]
    template = {"metadata": {"name": "t"}, "spec": {"steps": SPEC["steps"]}}
    api.put(f"{DEMO}/workflowtemplates/t", template)
    assert "flowchart" in corral("graph", "template/t")[1]
    spec = {"workflowTemplateRef": {"name": "t"}}
    api.put(f"{WORKFLOWS}/by-name", {"metadata": {"name": "by-name"}, "spec": spec})
    code, _, err = corral("graph", "by-name")
    assert code == 1
    assert "corral graph template/t" in err
    run = Run(run_id="r", template={"steps": SPEC["steps"]})
    status = {"phase": "Running", "journal": to_journal(run)}
    started = {"metadata": {"name": "by-name"}, "spec": spec, "status": status}
    api.put(f"{WORKFLOWS}/by-name", json.loads(json.dumps(started)))
    assert "s_sum" in corral("graph", "by-name")[1], "of the template, as it was"
