from __future__ import annotations

import pytest

from actors.settings.run import DATA, MEMORY
from actors.wire import ConfigError
from orchestrator.loop.resize_rules import group_sizes, with_sizes
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
