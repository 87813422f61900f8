"""Argo CD and Flux say of every object in every state what it is, and the same."""

import pytest
import yaml

from corral.api.crd.kinds import KINDS
from tests.unit.gitops.engines import argo_cd, cel_checks, documents, flux, lua_scripts
from tests.unit.gitops.states import EVERY, STATES, State

each_state = pytest.mark.parametrize("state", EVERY.values(), ids=EVERY)


@each_state
def test_argo_cd_says(state: State) -> None:
    status, message = argo_cd(state.obj)
    assert status == state.argo_cd
    assert state.message in message


@each_state
def test_flux_says_the_same(state: State) -> None:
    assert flux(state.obj) == state.flux


def test_every_kind_has_checks_and_states() -> None:
    kinds = {kind.name for kind in KINDS}
    assert set(lua_scripts()) == kinds
    assert set(cel_checks()) == kinds
    assert {state.obj["kind"] for state in STATES.values()} == kinds


def test_every_answer_is_one_that_argo_cd_knows() -> None:
    """Any other becomes Unknown there."""
    known = {"Healthy", "Progressing", "Degraded", "Suspended", "Missing"}
    assert {argo_cd(state.obj)[0] for state in EVERY.values()} <= known


def test_the_patch_changes_nothing_but_its_own_keys() -> None:
    patch = documents("argo-cd/health-checks/argocd-cm.yaml")[0]
    assert patch["metadata"] == {"name": "argocd-cm"}
    assert set(patch) == {"apiVersion", "kind", "metadata", "data"}
    assert yaml.safe_dump(patch)
