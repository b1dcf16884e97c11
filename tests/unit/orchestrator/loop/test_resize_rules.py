from __future__ import annotations

import pytest

from actors.settings.run import DATA, MEMORY
from actors.wire import ConfigError
from orchestrator.loop.resize_rules import group_sizes, next_boundary, with_sizes
from orchestrator.loop.schedule import GroupProgress, Plan
from orchestrator.settings.config import changed_keys
from tests.unit.orchestrator.scripted import a_config


def test_only_the_named_groups_get_another_size() -> None:
    config = a_config(data={"workers": {"num_workers": 3, "cpus": 0.5}})
    after = with_sizes(config, {MEMORY: 2})
    assert group_sizes(after) == {DATA: 3, MEMORY: 2}
    assert after.data == config.data
    assert changed_keys(config, after) == []  # a resume may take it


def test_a_size_that_the_batch_does_not_allow_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size 16 is less than workers"):
        with_sizes(a_config(), {DATA: 17})


@pytest.mark.parametrize(
    ("committed", "running", "every", "boundary"),
    [(0, False, 1, 1), (0, True, 1, 2), (4, True, 1, 6), (4, True, 3, 6), (5, True, 3, 9)],
)
def test_the_next_boundary_is_the_first_version_of_an_interval_not_begun(
    committed: int, running: bool, every: int, boundary: int
) -> None:
    plan = Plan(90, 1, publish_every=every)
    assert next_boundary(GroupProgress(committed, running), plan) == boundary
