from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.nodes import private_ray
from orchestrator.nodes.private_ray import (
    DRAINING,
    NAMES,
    NOTICES,
    TESTED,
    TOKEN,
    MissingPrivateNameError,
    PrivateName,
    autoscaling_state,
    cluster_here,
    draining_nodes,
    find,
    missing,
    need,
    token_header,
    without_notices,
)

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_the_ray_that_is_installed_has_each_name(name: PrivateName) -> None:
    assert callable(find(name))


def test_the_tested_version_is_the_one_that_is_pinned() -> None:
    assert f"ray=={TESTED}\n" in (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert importlib.metadata.version("ray") == TESTED


@pytest.mark.parametrize("module", ["ray._private.gone", "ray._private.state"])
def test_a_name_that_is_gone_is_none(module: str) -> None:
    assert find(replace(DRAINING, module=module, path="state.gone.either")) is None


def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray without any of the names."""
    monkeypatch.setattr(private_ray, "find", lambda name: None)


def test_a_run_warns_of_what_another_ray_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == []
    gone(monkeypatch)
    assert any(str(DRAINING) in line and DRAINING.without in line for line in missing())
    assert all(f"tested with ray=={TESTED}" in line for line in missing())


def test_what_can_be_done_without_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gone(monkeypatch)
    assert draining_nodes() == {}
    assert autoscaling_state() is None
    assert cluster_here() is None
    with without_notices():
        pass


def test_what_cannot_says_which_ray_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    gone(monkeypatch)
    with pytest.raises(MissingPrivateNameError) as failed:
        need(TOKEN)
    assert f"has no {TOKEN}, which is used to find the token" in str(failed.value)
    assert f"pip install 'ray=={TESTED}'" in str(failed.value)
    with pytest.raises(MissingPrivateNameError):
        token_header()


def test_rays_notices_are_silent_inside_and_back_after() -> None:
    before = find(NOTICES)
    with without_notices():
        assert find(NOTICES) is not before
    assert find(NOTICES) is before
