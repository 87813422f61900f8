"""Field descriptions come from the docstrings below the fields."""

from corral.api.crd.docstrings import field_docstrings, one_line
from corral.api.workflow import NestedStep, Step


def test_a_class_has_the_descriptions_of_its_bases() -> None:
    own = field_docstrings(Step)
    assert own["agent_ref"] == field_docstrings(NestedStep)["agent_ref"]
    assert "output" in own
    assert "output" not in field_docstrings(NestedStep)


def test_prose_becomes_one_line_without_markup() -> None:
    assert one_line("How ``x: y``\n    answers.") == "How x: y answers."
