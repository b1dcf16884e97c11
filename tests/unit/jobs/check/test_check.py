from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from actors.corpus.corpus import Corpus, build_tokenizer
from actors.sources.split import Split
from actors.wire import ConfigError, CorpusError
from jobs.check.check import check, grows, show, warnings
from jobs.check.fit_report import fit_lines, fit_report
from jobs.check.resources import AvailableResources
from orchestrator.console import Console
from orchestrator.errors import PlacementError, RunExistsError, StoreTooSmallError
from orchestrator.nodes.nodes import Node
from orchestrator.settings.config import Config, load_config
from tests.integration.tiny import write_config, write_corpora
from tests.unit.actors.settings.test_fitted import SMOL


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_corpora(tmp_path)
    return str(write_config(tmp_path))


def checked(config: str, *overrides: str) -> dict[str, Any]:
    return check(load_config(config, overrides))


def test_a_good_config_says_what_its_run_takes(config: str) -> None:
    found = checked(config, *(f"{g}.optimizer.warmup_steps=2" for g in ("data", "memory")))
    assert found["status"] == "ok"
    assert found["parameters"]["value_table"] == 64 * 16
    assert found["store"]["needed_bytes"] < found["store"]["available_bytes"]
    assert found["resources"]["CPU"] == {"asked": 2, "available": 2}
    assert found["asks_for"] == "data 1 x (CPU 1), memory 1 x (CPU 1)"
    assert found["data"]["steps"] == 9
    # 60 facts of three wordings, each of 5 to 32 tokens
    assert 60 * 3 * 5 < found["corpus"]["tokens_per_epoch"] < 60 * 3 * 32
    assert found["warnings"] == []


def test_plain_text_is_looked_at_too(config: str, tmp_path: Path) -> None:
    corpus = {"kind": "text", "paths": [str(tmp_path / "text.txt")], "window": 32}
    found = checked(config, f"corpus={corpus}", "corpus.block_bytes=1024")
    assert 10_000 / 8 < found["corpus"]["tokens_per_epoch"] < 10_000


def test_long_rows_that_leave_whole_chunks_empty_can_be_trained(
    config: str, tmp_path: Path
) -> None:
    rows = [json.dumps({"text": f"row {number} " * 1000}) + "\n" for number in range(30)]
    (tmp_path / "long.jsonl").write_text("".join(rows))
    corpus = {"kind": "text", "paths": [str(tmp_path / "long.jsonl")], "window": 32}
    found = checked(config, f"corpus={corpus}", "corpus.block_bytes=256", "corpus.shuffle_blocks=1")
    assert found["status"] == "ok"
    assert found["corpus"]["tokens_per_epoch"] > 0


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("text on one line " * 5000, None),
        ("text on a line\r" * 5000, None),
        (
            json.dumps({"text": "one row " * 9000}),
            r"1 row\(s\), the longest of 72,012 bytes",
        ),
        ("text\n" * 5000, "by its NUL bytes UTF-16LE"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 19])
def test_text_without_lines_is_taken_and_what_is_no_text_is_named(
    config: str, tmp_path: Path, raw: str, problem: str | None, seed: int
) -> None:
    path = tmp_path / ("a.jsonl" if raw.startswith("{") else "a.txt")
    path.write_bytes(raw.encode("utf-16-le" if problem and "UTF-16" in problem else "utf-8"))
    corpus = {"kind": "text", "paths": [str(path)], "window": 32, "block_bytes": 1024}
    settings = load_config(config, [f"corpus={corpus}", f"seed={seed}"])

    def look() -> None:
        check(settings)
        Corpus.open(settings, build_tokenizer(settings)).heldout(4)

    if problem is None:
        look()
        return
    with pytest.raises(CorpusError, match=problem):
        look()


def test_what_will_be_read_is_said_by_source_and_side(config: str, tmp_path: Path) -> None:
    corpus = {"kind": "text", "paths": [str(tmp_path / "text.txt")], "window": 32}
    found = checked(config, f"corpus={corpus}", "corpus.block_bytes=1024")
    (source,) = found["corpus"]["sources"]
    whole = (tmp_path / "text.txt").stat().st_size
    assert (source["num_files"], source["file_bytes"]) == (1, whole)
    assert source["training"]["num_bytes"] + source["heldout"]["num_bytes"] == whole
    assert source["training"]["documents"] + source["heldout"]["documents"] == -(-whole // 1024)
    assert source["training"]["tokens"] == found["corpus"]["tokens_per_epoch"]
    assert not source["training"]["estimated"]
    console = Console(file=io.StringIO(), width=120)
    show(found, console)
    assert f"text.txt: 1 file, {whole / 1000:.1f} kB" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_bad_record_in_a_held_out_block_is_named(config: str, tmp_path: Path) -> None:
    rows = ['{"text": "%s"}' % ("word " * 10)] * 800
    rows[500] = '{"text": ["a", "list"]}'
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    corpus = {"paths": [str(tmp_path / "rows.jsonl")], "window": 32, "block_bytes": 512}
    total = -(-(tmp_path / "rows.jsonl").stat().st_size // 512)
    block = 500 * (len(rows[0]) + 1) // 512
    (seed,) = [s for s in range(20) if block in Split(total, 0.05, s).heldout()]
    with pytest.raises(CorpusError, match=r"rows\.jsonl, line 501: column text: expected text"):
        checked(config, f"corpus={corpus}", f"seed={seed}")


def test_a_warm_up_longer_than_the_run_is_a_warning(config: str) -> None:
    (said,) = checked(config, "memory.optimizer.warmup_steps=2")["warnings"]
    assert said.startswith("data.optimizer.warmup_steps 20: the data group has 9 steps")


REFUSED: list[tuple[tuple[str, ...], type[ConfigError], str]] = [
    (("losses.hlep=1",), ConfigError, "did you mean losses.help"),
    (("corpus.paths=[none.jsonl]",), CorpusError, "no such file"),
    (("data.workers.cpus=64",), PlacementError, "CPU: asked 65"),
    (("data.workers.gpus=2", "ray.num_gpus=1"), PlacementError, "GPU: asked 2"),
    (("data.layer.read_layers=[0, 9]",), ConfigError, "layer 9 does not exist"),
    (("data.layer.fields.hiden=1",), ConfigError, "llama has no field hiden"),
    (("corpus.window=64",), ConfigError, "longer than the model's 32 positions"),
    (("memory.layer.slots_side=1024", "ray.object_store_mib=80"), StoreTooSmallError, "too small"),
    (("trackers.mlflow=file:x",), ConfigError, "tandem-memory"),
]


@pytest.mark.parametrize(("overrides", "error", "message"), REFUSED)
def test_what_train_would_refuse_is_refused_in_its_words(
    overrides: tuple[str, ...],
    error: type[ConfigError],
    message: str,
    config: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no tracker is installed
    with pytest.raises(error, match=message):
        checked(config, *overrides)


def test_a_cluster_that_has_too_little_now_and_grows_is_a_warning(config: str) -> None:
    asked = load_config(config, ["data.workers.node_labels.pool=a", "deadlines.start_s=77"])
    now = {"CPU": 1.0}
    with pytest.raises(PlacementError, match="CPU: asked 2"):
        grows(asked, AvailableResources("a cluster", now, None, None))
    (warning,) = grows(asked, AvailableResources("a cluster", now, None, None, autoscales=True))
    assert "no node has the labels pool=a" in warning
    assert "77 s" in warning


def test_a_cluster_whose_node_types_could_never_hold_a_run_is_refused(config: str) -> None:
    asked = load_config(config, ["data.workers.node_labels.pool=a"])
    grown = [Node({"CPU": 4.0}, {"pool": "b"})]
    with pytest.raises(PlacementError, match=r"data: no node has the labels pool=a .*pool=b"):
        grows(
            asked,
            AvailableResources("it", {"CPU": 0.0}, None, None, autoscales=True, possible=grown),
        )
    enough = [*grown, Node({"CPU": 1.0}, {"pool": "a"})]
    assert grows(
        asked, AvailableResources("it", {"CPU": 0.0}, None, None, autoscales=True, possible=enough)
    )


def test_a_run_that_is_there_already_is_refused(config: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    with pytest.raises(RunExistsError):
        checked(config)


def test_checking_leaves_nothing_behind(config: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    checked(config)
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def found(config: str) -> tuple[Config, dict[str, Any]]:
    return load_config(config), checked(config)


def test_too_little_memory_is_a_warning(found: tuple[Config, dict[str, Any]]) -> None:
    (said,) = warnings(*found, AvailableResources("here", {}, free_bytes=2**20, gpu_bytes=None))
    assert said.startswith("memory: all processes and the store take about")


def test_too_little_disk_is_a_warning(found: tuple[Config, dict[str, Any]]) -> None:
    config, result = found
    full = result | {"disk": {**result["disk"], "free_bytes": 10}}
    (said,) = warnings(config, full, AvailableResources("here", {}, None, None))
    assert said.startswith("disk: exports and checkpoints take")


def test_a_share_of_a_gpu_that_is_too_small_is_a_warning(config: str) -> None:
    shared = load_config(config, ["data.workers.gpus=0.5", "ray.num_gpus=1"])
    machine = AvailableResources("here", {}, free_bytes=2**40, gpu_bytes=2**20)
    (said,) = warnings(shared, check(shared), machine)
    assert said.startswith("data worker: about")
    assert "lower data.batch_size" in said


def test_tables_hold_parameters_memory_store_and_tokens(
    found: tuple[Config, dict[str, Any]],
) -> None:
    console = Console(file=io.StringIO(), width=120)
    show(found[1] | {"warnings": ["mind this"]}, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("value table", "optimizer", "object store", "tokens per interval", "mind this"):
        assert part in text
    assert "run can be trained" in text


def test_what_fits_itself_to_a_pretrained_model_is_listed_and_what_damages_it_is_named(
    config: str, tmp_path: Path
) -> None:
    folder = tmp_path / "smol"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMOL))
    layer = {"pretrained": str(folder), "read_layers": [0, 20]}
    given = f"data={{layer: {json.dumps(layer)}, optimizer: {{lr: 2.0e-3}}}}"
    fitted, found = fit_report(load_config(config, [given]))
    assert (fitted["data.optimizer.lr"], fitted["data.batch_size"]) == (2e-3, 8)
    assert any("data.optimizer.lr 0.002 is 67 times" in line for line in found)
    assert any("read_layers [0, 20] of 30" in line for line in found)
    assert not any("frozen_copy" in line for line in found)
    _, found = fit_report(load_config(config, [given, "memory.layer.encoder=frozen_copy"]))
    assert any("encoder frozen_copy: in the first layers" in line for line in found)
    lines = fit_lines(fitted)
    assert lines[0].startswith("the model has about 134.48 M parameters; with it data: ")
    assert "optimizer.lr 0.002" in lines[0]


def test_a_fresh_model_has_nothing_that_fits_itself(config: str) -> None:
    assert fit_report(load_config(config)) == ({}, [])
    assert fit_lines({}) == []
