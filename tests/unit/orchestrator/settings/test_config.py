from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from actors.wire import ConfigError
from orchestrator.settings.config import (
    changed_keys,
    dotted_keys,
    load_config,
    make_config,
    nearest_key,
)
from orchestrator.settings.config_paths import anchor_paths

MINIMAL = {"corpus": {"paths": ["text.txt"]}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A config that says nothing but where the corpus is."""
    path = tmp_path / "configs" / "minimal.yaml"
    path.parent.mkdir()
    path.write_text("corpus: {paths: [text.txt]}\n")
    return path


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(str(path), overrides)
    return str(raised.value)


def test_overrides_replace_single_values_and_leave_their_neighbours(file: Path) -> None:
    file.write_text("corpus: {paths: [a]}\ndata: {batch_size: 4, optimizer: {warmup_steps: 7}}\n")
    config = load_config(str(file), ["data.optimizer.lr=0.5", "seed=7"])
    assert (config.seed, config.data.batch_size) == (7, 4)
    assert (config.data.optimizer.lr, config.data.optimizer.warmup_steps) == (0.5, 7)


def test_the_last_of_two_overrides_of_one_key_wins(file: Path) -> None:
    assert load_config(str(file), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "1.e-03"])
def test_an_override_in_scientific_notation_is_a_number(file: Path, text: str) -> None:
    assert load_config(str(file), [f"data.optimizer.lr={text}"]).data.optimizer.lr == 0.001


def test_scientific_notation_in_the_file_is_a_number(file: Path) -> None:
    file.write_text("corpus: {paths: [a]}\ndata: {optimizer: {lr: 1e-3}}\n")
    assert load_config(str(file)).data.optimizer.lr == 0.001


def test_an_override_of_a_model_field_in_scientific_notation_is_a_number(file: Path) -> None:
    config = load_config(str(file), ["data.layer.fields.rms_norm_eps=1e-5"])
    assert config.data.layer.fields == {"rms_norm_eps": 1e-5}


def test_a_model_field_of_the_file_in_scientific_notation_is_a_number(file: Path) -> None:
    file.write_text("corpus: {paths: [a]}\ndata: {layer: {fields: {rms_norm_eps: 1e-5}}}\n")
    assert load_config(str(file)).data.layer.fields == {"rms_norm_eps": 1e-5}


def test_lists_and_null_are_overridden_as_yaml(file: Path) -> None:
    config = load_config(str(file), ["data.layer.read_layers=[0, 2]", "ray.address=null"])
    assert config.data.layer.read_layers == (0, 2)
    assert config.ray.address is None


def test_the_word_self_names_the_loss_of_the_memory_alone(file: Path) -> None:
    assert load_config(str(file), ["losses.self=0.25"]).losses.self_ == 0.25


def test_relative_corpus_paths_of_a_file_are_relative_to_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    file.write_text("corpus: {kind: facts, paths: [../a, b/*.jsonl], templates: t.json}\n")
    corpus = load_config(str(file)).corpus
    folder = file.parent
    assert corpus.paths == (str(folder.parent / "a"), str(folder / "b/*.jsonl"))
    assert corpus.templates == str(folder / "t.json")


def test_relative_corpus_paths_of_an_override_are_relative_to_the_working_directory(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = load_config(str(file), ["corpus.paths=[here.txt]", "corpus.templates=t.json"]).corpus
    assert corpus.paths == (str(tmp_path / "here.txt"),)
    assert corpus.templates == str(tmp_path / "t.json")


def test_nested_values_are_a_config_and_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"corpus": {"paths": ["a.txt", Path("b.txt")]}, "data": {"batch_size": 4}}
    config = load_config(values, ["data.batch_size=6", "seed=2"])
    assert config.corpus.paths == (f"{tmp_path}/a.txt", f"{tmp_path}/b.txt")
    assert (config.data.batch_size, config.seed) == (6, 2)
    assert values == {"corpus": {"paths": ["a.txt", Path("b.txt")]}, "data": {"batch_size": 4}}


def test_a_key_that_is_no_text_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match="config: 1: Keys should be strings, got 1"):
        load_config({"corpus": {"paths": ["a"]}, 1: 2})  # type: ignore[dict-item]


def test_a_mistake_in_nested_values_is_named_as_one_in_a_file() -> None:
    with pytest.raises(ConfigError, match=r"config: unknown key sead; did you mean seed\?"):
        load_config({"corpus": {"paths": ["a"]}, "sead": 1})


def test_a_file_may_be_given_as_a_path(file: Path) -> None:
    assert load_config(file) == load_config(str(file))


def test_absolute_corpus_paths_and_urls_stay_as_they_are(file: Path) -> None:
    config = load_config(str(file), ["corpus.paths=[/data/a.txt, s3://bucket/b.txt]"])
    assert config.corpus.paths == ("/data/a.txt", "s3://bucket/b.txt")


@pytest.mark.parametrize(
    ("override", "unknown", "nearest"),
    [
        ("data.lr=1", "data.lr", "data.optimizer.lr"),
        ("memory.lr=1", "memory.lr", "memory.optimizer.lr"),
        ("data.optimiser.lr=1", "data.optimiser", "data.optimizer"),
        ("losses.hlep=1", "losses.hlep", "losses.help"),
        ("inteval=1", "inteval", "intervals"),
        ("topk=1", "topk", "memory.layer.topk"),
        ("memory.batchsize=1", "memory.batchsize", "memory.batch_size"),
        ("exchange.catchup=1", "exchange.catchup", "exchange.catchup_intervals"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_one_named(
    file: Path, override: str, unknown: str, nearest: str
) -> None:
    expected = f"override {override}: unknown key {unknown}; did you mean {nearest}?"
    assert error_of(file, override) == expected


def test_an_unknown_key_of_an_entry_is_refused_and_the_nearest_one_named(file: Path) -> None:
    file.write_text("corpus: {sources: [{paths: [a], wieght: 2}]}\n")
    said = error_of(file)
    key = "corpus.sources.0.wieght"
    assert said == f"{file}: unknown key {key}; did you mean corpus.sources.*.weight?"


def test_an_unknown_key_like_none_that_there_is_gets_no_suggestion(file: Path) -> None:
    assert error_of(file, "qqqqqqqq=1") == "override qqqqqqqq=1: unknown key qqqqqqqq"


def test_every_known_key_is_nearest_to_itself() -> None:
    keys = list(dotted_keys())
    assert [nearest_key(key) for key in keys] == keys


def test_every_known_leaf_is_in_the_resolved_config() -> None:
    resolved = yaml.safe_load(make_config(MINIMAL).to_yaml())
    for key in dotted_keys():
        inside = resolved
        for part in key.split("."):
            assert part in inside, key
            inside = inside[part]


def test_each_mistake_has_its_own_line(file: Path) -> None:
    file.write_text("seed: -1\ndata: {batch_size: 1}\nlosses: {hlep: 1}\ncorpus: {paths: [a]}\n")
    lines = error_of(file).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{file}: ") for line in lines)


def test_a_mistake_begins_with_the_file_or_the_override_that_makes_it(file: Path) -> None:
    file.write_text("seed: -1\ncorpus: {paths: [a]}\ncheckpoints: {every: 4}\n")
    lines = error_of(file, "data.batch_size=0", "name=a b", "intervals=7").splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{file}: seed: ")
    assert lines[1].startswith("override data.batch_size=0: data.batch_size: ")
    assert lines[2].startswith("override name=a b: name: ")
    assert error_of(file, "seed=-2").startswith("override seed=-2: seed: ")


def test_a_mistake_in_several_values_names_the_overrides_of_them(file: Path) -> None:
    """Where the mistake has no key of its own, all overrides."""
    topk = error_of(file, "seed=3", "memory.layer.topk=9", "memory.layer.slots_side=8")
    assert topk.startswith("overrides memory.layer.topk=9, memory.layer.slots_side=8: ")
    every = error_of(file, "seed=3", "checkpoints.every=5", "exchange.publish_every=2")
    assert every.startswith("overrides seed=3, checkpoints.every=5, exchange.publish_every=2: ")
    assert error_of(file, "data=3").startswith("override data=3: data: ")


def test_missing_corpus_paths_are_named(file: Path) -> None:
    file.write_text("corpus: {window: 32}\n")
    said = error_of(file)
    assert said.startswith(f"{file}: corpus: `paths` is missing")
    assert len(said.splitlines()) == 1


def test_a_missing_corpus_is_named(file: Path) -> None:
    file.write_text("seed: 1\n")
    assert error_of(file) == f"{file}: corpus is missing"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("intervals=many", ("intervals", "integer", "'many'")),
        ("data.optimizer.lr=fast", ("data.optimizer.lr", "number", "'fast'")),
        ("corpus.kind=images", ("corpus.kind", "'text' or 'facts'", "'images'")),
        ("data=3", ("data: should be keys and values, got 3",)),
        ("corpus.paths=5", ("corpus.paths: should be a list, got 5",)),
        ("corpus.paths=[null]", ("corpus.paths.0: should be text, got None",)),
        ("seed=1.5", ("seed: should be a whole number, got 1.5",)),
        ("profile=a-b", ("profile: expected an interval or a range of them", "'a-b'")),
    ],
)
def test_a_value_of_the_wrong_type_names_key_what_was_expected_and_what_was_got(
    file: Path, override: str, parts: tuple[str, ...]
) -> None:
    message = error_of(file, override)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("override", "key", "bound"),
    [
        ("intervals=0", "intervals", "1"),
        ("data.optimizer.lr=0", "data.optimizer.lr", "0"),
        ("data.help_frac=1.5", "data.help_frac", "1"),
        ("corpus.window=4", "corpus.window", "8"),
        ("deadlines.heartbeat_s=1", "deadlines.heartbeat_s", "10"),
        ("ray.object_store_mib=79", "ray.object_store_mib", "80"),
    ],
)
def test_a_value_out_of_range_names_key_bound_and_value(
    file: Path, override: str, key: str, bound: str
) -> None:
    message = error_of(file, override)
    assert f"{key}: should be" in message
    assert f"equal to {bound}," in message or f"than {bound}," in message
    assert message.endswith(f"got {override.partition('=')[2]}")


@pytest.mark.parametrize("text", [".nan", ".inf"])
def test_a_number_that_is_not_finite_is_refused(file: Path, text: str) -> None:
    assert "data.optimizer.lr" in error_of(file, f"data.optimizer.lr={text}")


@pytest.mark.parametrize(
    "name", ["", "../up", "a/b", ".hidden", "a b", "a\nb"], ids=lambda name: repr(name)
)
def test_a_run_name_that_is_no_directory_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        make_config(MINIMAL | {"name": name})


def test_facts_without_templates_say_what_is_needed(file: Path) -> None:
    assert "needs `templates`" in error_of(file, "corpus.kind=facts")


def test_a_topk_above_the_slots_of_a_side_names_both(file: Path) -> None:
    message = error_of(file, "memory.layer.topk=9", "memory.layer.slots_side=8")
    assert "topk 9 is more than slots_side 8" in message


def test_losses_that_leave_a_group_nothing_to_learn_are_refused(file: Path) -> None:
    assert "data group would train on nothing" in error_of(file, "losses.own=0", "losses.help=0")


def test_an_override_without_a_value_is_shown_how(file: Path) -> None:
    assert "'seed': expected key=value" in error_of(file, "seed")


def test_an_override_inside_a_plain_value_is_refused(file: Path) -> None:
    assert "seed already has a plain value" in error_of(file, "seed=1", "seed.x=2")


def test_an_override_that_is_not_yaml_is_named(file: Path) -> None:
    assert "override 'seed=[1': the value is not YAML" in error_of(file, "seed=[1")


def test_a_file_that_is_not_yaml_is_named(file: Path) -> None:
    file.write_text("corpus: {paths: [a\n")
    assert f"config {file}: not YAML" in error_of(file)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "nothing"), ("- a\n- b\n", "a list"), ("word\n", "text"), ("7\n", "a number")],
)
def test_a_file_that_is_not_keys_and_values_is_refused(file: Path, text: str, kind: str) -> None:
    file.write_text(text)
    assert f"expected keys and values, got {kind}" in error_of(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = error_of(tmp_path / "none.yaml")
    assert f"config {tmp_path}/none.yaml: no such file; give a YAML file (tandem init" in said


def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    assert f"config {tmp_path}: is a folder" in error_of(tmp_path)


def test_a_file_that_is_not_utf8_is_named(file: Path) -> None:
    file.write_bytes(b"name: \xff\xfe\n")
    assert f"config {file}: byte 6 is not UTF-8" in error_of(file)


def test_a_pipe_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.yaml")
    assert f"{tmp_path / 'run.yaml'} is a pipe, expected a file" in error_of(tmp_path / "run.yaml")


def test_the_resolved_config_loads_to_an_equal_one(file: Path, tmp_path: Path) -> None:
    overrides = [
        "name=other",
        "seed=3",
        "losses.self=0.3",
        "data.optimizer.lr=1e-30",
        "memory.value_lr=1e30",
        "data.layer.fields={rope_theta: 10000.0, hidden_act: silu}",
        "corpus.templates='ünïcode: [X].json'",
    ]
    config = load_config(str(file), overrides)
    resolved = tmp_path / "elsewhere" / "config.yaml"
    resolved.parent.mkdir()
    resolved.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(str(resolved)) == config


def test_a_config_can_not_be_changed_after_its_birth() -> None:
    config = make_config(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1


def test_the_run_directory_is_storage_and_name() -> None:
    assert (
        make_config(MINIMAL | {"storage": "s3://b/runs/", "name": "x"}).run_url == "s3://b/runs/x"
    )


def test_reading_a_config_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, orchestrator.settings.config; "
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_pretrained_folder_beside_the_file_is_relative_to_it(file: Path) -> None:
    (file.parent / "models" / "small").mkdir(parents=True)
    file.write_text("corpus: {paths: [a]}\ndata: {layer: {pretrained: models/small}}\n")
    assert load_config(str(file)).data.layer.pretrained == str(file.parent / "models" / "small")


def test_a_hub_name_stays_a_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.settings.fitted_config._from_hub", lambda name: "{}")
    file.write_text("corpus: {paths: [a]}\ndata: {layer: {pretrained: owner/model}}\n")
    assert load_config(str(file)).data.layer.pretrained == "owner/model"


def test_a_dotted_path_is_a_path_though_nothing_is_there(file: Path) -> None:
    config = load_config(str(file), ["data.layer.pretrained=./gone"])
    assert config.data.layer.pretrained == f"{Path.cwd()}/gone"


def test_a_run_to_start_from_is_relative_to_the_file(file: Path) -> None:
    file.write_text("corpus: {paths: [a]}\nmemory: {layer: {start_from: ../runs/a}}\n")
    want = str(file.parent.parent / "runs" / "a")
    assert load_config(str(file)).memory.layer.start_from == want


def test_paths_of_a_file_on_remote_storage_begin_at_its_folder() -> None:
    values = {"corpus": {"paths": ["a.txt", "../b.txt", "gs://other/c.txt"]}}
    anchor_paths(values, "s3://bucket/configs/mine")
    want = ["s3://bucket/configs/mine/a.txt", "s3://bucket/configs/b.txt", "gs://other/c.txt"]
    assert values["corpus"]["paths"] == want


def test_paths_of_several_sources_are_relative_to_the_file(file: Path) -> None:
    file.write_text(
        "corpus: {spool: tmp, sources: [{paths: [../a, /b]}, {paths: ['s3://c/*.parquet']}]}\n"
    )
    corpus = load_config(str(file)).corpus
    folder = file.parent
    assert [source.paths for source in corpus.sources] == [
        (str(folder.parent / "a"), "/b"),
        ("s3://c/*.parquet",),
    ]
    assert corpus.spool == str(folder / "tmp")


def test_paths_in_the_home_directory_are_found_there(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_config(str(file), ["corpus.paths=['~/a.txt']"]).corpus.paths == (
        "/home/someone/a.txt",
    )


def test_a_tokenizer_is_a_path_where_there_is_one_and_a_hub_name_otherwise(file: Path) -> None:
    (file.parent / "llama").mkdir()
    for written, want in (
        ("llama", str(file.parent / "llama")),
        ("./gone", str(file.parent / "gone")),
        ("openai-community/gpt2", "openai-community/gpt2"),
    ):
        file.write_text(f"corpus: {{paths: [a.txt]}}\ntokenizer: {{pretrained: {written}}}\n")
        assert load_config(str(file)).tokenizer.pretrained == want


def test_an_unknown_key_of_a_source_is_named(file: Path) -> None:
    file.write_text("corpus: {sources: [{paths: [a], wieght: 2}]}\n")
    assert "unknown key corpus.sources.0.wieght" in error_of(file)


@pytest.mark.parametrize(
    ("data", "is_refused"),
    [({}, False), ({"general_frac": 0.1}, True), ({"general_frac": 0}, False)],
)
def test_a_resume_may_change_the_general_text_where_nothing_trains_on_it(
    data: dict[str, float], is_refused: bool
) -> None:
    before, now = (
        make_config({**MINIMAL, "data": data, "evaluation": {"general_text": text, "windows": num}})
        for text, num in (("/texts/a.txt", 8), ("/texts/b.txt", 9))
    )
    refused = [("evaluation.general_text", "/texts/a.txt", "/texts/b.txt")]
    assert changed_keys(before, now) == (refused if is_refused else [])
    assert changed_keys(before, before) == []
