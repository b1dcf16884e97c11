"""The config of a run that teaches: what it takes from the run, and how many steps it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.settings.fitted import ModelSize
from actors.settings.teach import TeachSpec
from actors.wire import ConfigError
from jobs.teach.taught_config import (
    KEPT_READS,
    LARGE_FACTOR,
    LORA_LR,
    Sources,
    data_lr,
    refuse_too_few,
    steps_for,
    taught_config,
)
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.saved_config import config_at, saved_config
from orchestrator.settings.config import Config, changed_keys, make_config
from orchestrator.settings.file_names import CONFIG

SOURCES = Sources("/runs/base/export", "/runs/base/export", 100_000, 30, True)


def base(**changes: Any) -> Config:
    """The run that is taught."""
    return make_config(
        {
            "name": "base",
            "corpus": {"paths": ["/corpus/a.txt"], "window": 64, "token_noise": 0.1},
            "data": {
                "batch_size": 16,
                "optimizer": {"lr": 4e-3, "weight_decay": 0.1},
                "layer": {"fields": {"hidden_size": 32, "attention_dropout": 0.1}},
            },
            "memory": {"value_lr": 4e-2},
            **changes,
        }
    )


def of(config: Config, steps: int | None = None, lr: float | None = None, **more: Any) -> Config:
    return taught_config(
        config, RunDir("/runs/base-taught"), SOURCES, steps, lr, None, TeachSpec(), **more
    )


def test_nothing_of_the_corpus_is_left_in_it() -> None:
    taught = of(base())
    assert "/corpus" not in taught.to_yaml()
    assert taught.corpus.paths == ("/runs/base-taught/written.jsonl",)
    assert (taught.corpus.window, taught.corpus.token_noise) == (64, 0.1)
    assert taught.run_url == "/runs/base-taught"


def test_a_run_named_from_where_the_command_runs_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "base" / "export" / "data_layer").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    sources = replace(SOURCES, data="runs/base/export", memory="runs/base/export")
    teach = TeachSpec(told="runs/base-taught/told.safetensors")
    out = RunDir("runs/base-taught")
    taught = taught_config(base(), out, sources, None, None, None, teach)
    out.write(CONFIG, taught.to_yaml(taught.run_url))

    monkeypatch.chdir("/")
    kept = saved_config(RunDir(str(tmp_path / "runs" / "base-taught")))
    first = str(tmp_path / "runs" / "base" / "export")
    assert kept.data.layer.pretrained == kept.memory.layer.start_from == first
    assert kept.tokenizer.pretrained == f"{first}/data_layer"
    assert kept.corpus.paths == (str(tmp_path / "runs" / "base-taught" / "written.jsonl"),)
    assert kept.teach.told == str(tmp_path / "runs" / "base-taught" / "told.safetensors")

    moved = (tmp_path / "runs" / "base-taught").rename(tmp_path / "elsewhere")
    kept = saved_config(RunDir(str(moved)))
    assert kept.corpus.paths == (str(moved / "written.jsonl"),)
    assert kept.teach.lessons == str(moved / "lessons.jsonl")
    assert kept.data.layer.pretrained == first


def test_both_layers_begin_as_they_were_exported_and_the_tokenizer_is_the_same() -> None:
    taught = of(base())
    assert taught.data.layer.pretrained == "/runs/base/export"
    assert taught.memory.layer.start_from == "/runs/base/export"
    assert taught.tokenizer.pretrained == "/runs/base/export/data_layer"
    assert taught.data.layer.fields == {"attention_dropout": 0.1}  # others would be refused


def test_rates_are_shares_of_the_runs_and_nothing_decays() -> None:
    taught = of(base())
    assert taught.data.optimizer.lr == pytest.approx(2e-3)
    assert taught.memory.value_lr == pytest.approx(0.35 * 4e-2)
    for group in (taught.data, taught.memory):
        assert group.optimizer.weight_decay == 0.0
        assert group.optimizer.warmup_steps == taught.total_steps("data") // 10
    assert of(base(), lr=1e-4).data.optimizer.lr == 1e-4


def test_a_run_that_was_taught_is_taught_again_with_the_rates_and_batch_of_the_first_time() -> None:
    first = of(base())
    again = of(of(first))
    assert first.data.batch_size == 24
    for group in ("data", "memory"):
        assert again.group(group).batch_size == first.group(group).batch_size
        assert again.group(group).optimizer.lr == first.group(group).optimizer.lr
    assert again.memory.value_lr == first.memory.value_lr


def test_a_memory_that_was_told_takes_no_step_and_is_told_beside_enough_text() -> None:
    teach = TeachSpec(memory_train="nothing")
    config = base(memory={"kept_reads": 100})
    taught = taught_config(config, RunDir("/runs/a-taught"), SOURCES, 160, None, None, teach)
    assert (taught.data.steps_per_interval, taught.memory.steps_per_interval) == (40, 1)
    assert taught.memory.kept_reads == KEPT_READS > 100


def test_steps_are_split_into_four_intervals_and_no_more_than_there_are() -> None:
    taught = of(base(), steps=100)
    assert (taught.intervals, taught.data.steps_per_interval) == (4, 25)
    few = of(base(), steps=8)
    assert (few.intervals, few.data.steps_per_interval) == (4, 2)


def test_by_default_every_lesson_is_shown_ten_times() -> None:
    assert steps_for(4, 4) == 120
    assert steps_for(200, 4) == 500


def test_steps_that_never_show_a_lesson_are_refused_with_a_better_number() -> None:
    refuse_too_few(50, 200, 4)
    with pytest.raises(ConfigError, match=r"200 windows and 49 steps show 196.*--steps 50, better"):
        refuse_too_few(49, 200, 4)


def test_a_model_that_keeps_its_bits_is_taught_by_adapters() -> None:
    layer = {"pretrained": "/models/small", "train": "port", "read_layers": (0, 1)}
    config = base(data={"batch_size": 16, "layer": layer, "optimizer": {"lr": 2e-3}})
    taught = of(config)
    assert taught.data.layer.train == "lora"
    assert taught.data.optimizer.lr == pytest.approx(LORA_LR / 2)
    assert of(config, train="all").data.layer.train == "all"


def test_a_large_model_gets_the_rate_that_fits_what_moves_and_not_that_of_its_port() -> None:
    layer = {"pretrained": "/models/large", "train": "port", "read_layers": (0, 1)}
    config = base(data={"batch_size": 16, "layer": layer, "optimizer": {"lr": 1e-2}})
    large, small = ModelSize(30, 576, 135_000_000), ModelSize(2, 32, 100_000)
    for moves, lr in (("all", 3e-5), ("lora", 2e-4)):
        assert data_lr(config, moves, large) == pytest.approx(LARGE_FACTOR * lr)
    assert data_lr(config, "lora", small) == LORA_LR / 2
    own = config.data.layer.model_copy(update={"train": "all"})
    trained = config.data.model_copy(update={"layer": own})
    whole = config.model_copy(update={"data": trained})
    assert data_lr(whole, "all", large) == pytest.approx(1e-2 / 2)  # what the run trained with


def test_a_resume_may_not_change_what_is_taught() -> None:
    before, other = of(base()), of(base(), steps=40)
    assert "data.steps_per_interval" in [key for key, _, _ in changed_keys(before, other)]
    lessons = other.model_copy(update={"teach": TeachSpec(lessons="/elsewhere.jsonl")})
    assert "teach.lessons" in [key for key, _, _ in changed_keys(other, lessons)]


def test_a_name_that_no_run_may_have_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"--out a b: name: expected letters, digits, .*'a b'"):
        config_at(base(), RunDir("/runs/a b"))
