"""Both groups in one process: what is published stays as it was, and turns are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.corpus.corpus import build_tokenizer
from actors.machine.host_memory import ByteArray
from actors.settings.run import DATA, GROUPS, MEMORY, peer_of
from orchestrator.in_process.groups import InProcessGroups
from orchestrator.in_process.host_store import HostStore
from orchestrator.loop.events import Committed, Evaluated, Prepared
from orchestrator.loop.exchange import Version
from orchestrator.settings.config import Config, load_config
from tests.integration.tiny import write_config, write_corpora
from tests.unit.actors.tiny import order


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("tiny")
    write_corpora(folder)
    threads = ["data.workers.cpus=2", "memory.workers.cpus=3"]
    return load_config(str(write_config(folder)), threads)


@pytest.fixture
def groups(config: Config) -> InProcessGroups:
    started = InProcessGroups(config, build_tokenizer(config).to_json(), HostStore())
    started.start(lambda: None)
    return started


def first_versions(groups: InProcessGroups) -> dict[str, Version]:
    return {group: groups.first_version(group) for group in GROUPS}


def committed(groups: InProcessGroups) -> Committed:
    (event,) = groups.poll(0.0)
    assert isinstance(event, Committed)
    return event


def submit(groups: InProcessGroups, group: str, interval: int, peer: Version) -> None:
    run = groups._config.name
    groups.submit(group, order(interval, run=run, publish=True, checkpoint=True), peer)


def test_an_interval_changes_neither_a_published_version_nor_a_checkpoint(
    groups: InProcessGroups,
) -> None:
    first = first_versions(groups)
    submit(groups, DATA, 1, first[MEMORY])
    done = committed(groups)
    assert done.version is not None
    assert done.checkpoint is not None
    kept: list[ByteArray] = [
        *first[DATA].bucket_refs, *done.version.bucket_refs, *done.checkpoint.bucket_refs
    ]  # fmt: skip
    before = [bucket.copy() for bucket in kept]
    submit(groups, DATA, 2, first[MEMORY])
    later = committed(groups)
    assert later.version is not None
    assert all(map(np.array_equal, kept, before))
    assert not np.array_equal(later.version.bucket_refs[0], done.version.bucket_refs[0])


def test_nobody_can_write_to_what_was_published(groups: InProcessGroups) -> None:
    bucket = groups.first_version(DATA).bucket_refs[0]
    with pytest.raises(ValueError, match="read-only"):
        bucket[0] = 1


def test_groups_take_turns_in_the_order_of_asking_and_an_evaluation_goes_first(
    groups: InProcessGroups,
) -> None:
    first = first_versions(groups)
    for group in (MEMORY, DATA):
        submit(groups, group, 1, first[peer_of(group)])
    groups.evaluate(first[DATA], first[MEMORY], final=False)
    assert groups.evaluations_running == 1
    (event,) = groups.poll(0.0)
    assert isinstance(event, Evaluated)
    assert groups.evaluations_running == 0
    assert [committed(groups).group for _ in GROUPS] == [MEMORY, DATA]
    assert groups.poll(0.0) == []


def test_each_group_computes_with_as_many_threads_as_in_a_process_of_its_own(
    groups: InProcessGroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    first, seen = first_versions(groups), {}
    for group, trainer in groups._trainers.items():
        step = trainer.train_step

        def counted(group: str = group, step: object = step) -> object:
            seen[group] = torch.get_num_threads()
            return step()  # type: ignore[operator]

        monkeypatch.setattr(trainer, "train_step", counted)
    for group in GROUPS:
        submit(groups, group, 1, first[peer_of(group)])
        committed(groups)
    assert seen == {DATA: 2, MEMORY: 3}
    groups.evaluate(first[DATA], first[MEMORY], final=False)
    groups.poll(0.0)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_another_number_of_workers_is_refused(groups: InProcessGroups) -> None:
    groups.prepare({DATA: 2}, wait_s=1.0)
    (event,) = groups.poll(0.0)
    assert isinstance(event, Prepared)
    assert "one worker of each group" in str(event.cause)


def test_where_its_process_is_and_what_it_does_can_be_asked(
    groups: InProcessGroups, tmp_path: Path
) -> None:
    ((where, beat),) = groups.places()[DATA]
    assert (where.group, where.rank) == (DATA, 0)
    assert beat is not None
    assert beat.host_bytes > 0
