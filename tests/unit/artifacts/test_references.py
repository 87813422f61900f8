"""References: what stands in a status for a value in the store."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.plan.artifacts import Reference, decode, encode, is_reference, parse, reference_of
from corral.plan.expressions import compact_json

RUN = "3f0c3c1e-6c4f-4f2e-9a53-0d2a6f1f8d10"
SHA = "ab" * 32
GOOD = {"reference": f"artifact://team/{RUN}/{SHA}", "sha256": SHA, "size": 5000}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


def test_a_reference_is_read_as_it_is_written() -> None:
    reference = Reference(SHA, 5000, "team", RUN)
    assert reference.to_json() == GOOD
    assert parse(GOOD) == reference
    assert reference.path == f"team/{RUN}/{SHA}"


@given(values)
def test_a_value_is_stored_under_the_hash_of_its_compact_json(value: Any) -> None:
    reference, content = reference_of(value, "team", RUN)
    assert reference.sha256 == hashlib.sha256(content).hexdigest()
    assert reference.size == len(content)
    assert decode(content) == value
    assert content == encode(value) == compact_json(value).encode()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reference": f"http://team/{RUN}/{SHA}"}, "artifact://"),
        ({"reference": f"artifact://team/{RUN}"}, "reference"),
        ({"reference": f"artifact://team/{RUN}/x/{SHA}"}, "reference"),
        ({"reference": f"artifact://../{RUN}/{SHA}"}, "namespace"),
        ({"reference": f"artifact://team/../{SHA}"}, "run_id"),
        ({"reference": f"artifact://team/memo/{SHA}"}, "run_id"),
        ({"sha256": "cd" * 32}, "reference"),
        ({"size": "5000"}, "size"),
        ({"size": True}, "size"),
        ({"size": -1}, "size"),
        ({"more": 1}, "fields"),
        ({"reference": 1}, "reference"),
    ],
)
def test_what_is_no_reference_is_a_value(changes: dict[str, Any], named: str) -> None:
    value = GOOD | changes
    assert not is_reference(value)
    with pytest.raises(ValueError, match=named):
        parse(value)


@pytest.mark.parametrize("value", [None, "artifact://x", [], {}, 1, GOOD["reference"]])
def test_other_values_are_no_references(value: Any) -> None:
    assert not is_reference(value)
