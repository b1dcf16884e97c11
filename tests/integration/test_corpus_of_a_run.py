"""What a run reads: bad records before it starts and in its midst, and a corpus that changed."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.corpus.chunk_plan import rng_of
from actors.corpus.corpus import Corpus
from actors.corpus.inventory import take_inventory
from actors.settings.corpus import CorpusSpec
from actors.settings.run import DATA, GROUPS, MEMORY
from actors.sources.file_source import FileSource
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError, CorpusError
from jobs.evaluate.run import run_evaluation
from orchestrator.console import Console
from orchestrator.run_dir import checkpoints
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, load_config
from orchestrator.settings.file_names import CORPUS, SUMMARY
from tests.integration.tiny import run_in_process

ROWS = [{"text": f"line {i} of {400} " + "and so on " * (3 + i % 4)} for i in range(400)]
BAD = '{"text": 7}'


def overrides(folder: Path, name: str) -> list[str]:
    corpus = {
        "paths": [f"{folder}/rows.jsonl"],
        "window": 32,
        "block_bytes": 256,
        "shuffle_blocks": 1,
    }
    return [
        f"name={name}",
        f"corpus={json.dumps(corpus)}",
        f"tokenizer.pretrained={folder}/tokenizer",
        "checkpoints.every=1",
        "evaluation={every: 0, windows: 2, final_windows: 2, questions: 1}",
    ]


def write(folder: Path, bad: dict[int, str]) -> None:
    lines = [bad.get(i, json.dumps(row)) for i, row in enumerate(ROWS)]
    lines = [line.ljust(len(json.dumps(ROWS[i]))) for i, line in enumerate(lines)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    tokenizer = Tokenizer.train([row["text"] for row in ROWS], 300)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(tokenizer.to_json())
    write(tmp_path, {})
    return tmp_path


def row_reached_late(config: Config) -> int:
    """A row that nobody reads in the first interval, and the data group in its last one."""
    corpus = Corpus.open(config, Tokenizer.from_pretrained(str(config.tokenizer.pretrained)))
    first = config.data.steps_per_interval * config.data.batch_size  # windows of an interval
    source = FileSource(config.corpus.files[0], config.corpus, config.seed)
    data, memory = (source.order(rng_of(config.seed, group, 0)).tolist() for group in GROUPS)
    ends = np.cumsum([len(corpus.chunk(DATA, i)) for i in range(len(data))])
    needed = range(*np.searchsorted(ends, [2 * first, 3 * first]).tolist())
    early = np.searchsorted(np.cumsum([len(corpus.chunk(MEMORY, i)) for i in range(20)]), 2 * first)
    late = next(data[i] for i in needed if data[i] not in memory[: early + 2])
    text = source.block(late)[-1].text
    return next(i for i, row in enumerate(ROWS) if row["text"] == text)


def started(workplace: Path, given: list[str], resume: bool = False) -> tuple[dict[str, Any], str]:
    """The summary of a run in this process, and what a person reads meanwhile."""
    console = Console(record=True, quiet=False, file=open(os.devnull, "w"), width=400)  # noqa: SIM115
    config = load_config(str(workplace / "tiny.yaml"), given)
    return run_in_process(config, console, resume=resume).summary, console.export_text()


def test_a_bad_record_in_a_held_out_block_ends_a_run_before_it_begins(
    workplace: Path, folder: Path
) -> None:
    spec = CorpusSpec(paths=(f"{folder}/rows.jsonl",), block_bytes=256)
    text = next(iter(FileSource(spec.files[0], spec, 0).heldout())).text
    row = next(i for i, row in enumerate(ROWS) if row["text"] == text)
    write(folder, {row: BAD})
    with pytest.raises(CorpusError, match=rf"rows\.jsonl, line {row + 1}: column text"):
        started(workplace, overrides(folder, "early"))
    assert not (workplace / "runs" / "early").exists()


def test_a_bad_record_in_the_midst_ends_a_run_that_goes_on_once_it_is_mended_and_accepted(
    workplace: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = overrides(folder, "midst")
    row = row_reached_late(load_config(str(workplace / "tiny.yaml"), given))
    write(folder, {row: BAD})
    with monkeypatch.context() as patch:  # as of a corpus too large to be read at the start
        patch.setattr("orchestrator.run.take_inventory", partial(take_inventory, read_bytes=0))
        with pytest.raises(CorpusError, match=rf"rows\.jsonl, line {row + 1}: column text"):
            started(workplace, given)
    run_dir = RunDir(str(workplace / "runs" / "midst"))
    summary = json.loads(run_dir.read(SUMMARY))
    assert summary["status"] == "failed"
    assert f"line {row + 1}" in summary["cause"]
    assert checkpoints.intervals(run_dir)
    write(folder, {})
    with pytest.raises(ConfigError, match=r"rows\.jsonl has the same .* other content") as refused:
        started(workplace, given, resume=True)
    digest = str(refused.value).partition("recovery.accept_corpus=")[2].split()[0]
    accepted = [*given, f"recovery.accept_corpus={digest}"]
    summary, told = started(workplace, accepted, resume=True)
    assert summary["status"].startswith("finished")
    assert "resuming after interval" in told
    assert "accepted by recovery.accept_corpus" in told
    record = json.loads(run_dir.read(CORPUS))
    assert record["digest"] == digest


def test_a_run_keeps_and_says_what_it_reads_and_evaluate_sees_that_it_changed(
    workplace: Path, folder: Path
) -> None:
    _, told = started(workplace, overrides(folder, "record"))
    record = json.loads(RunDir(str(workplace / "runs" / "record")).read(CORPUS))
    (source,) = record["inventory"]["sources"]
    num = source["training"]["documents"] + source["heldout"]["documents"]
    assert num == len(ROWS)
    assert [Path(file["path"]).name for file in record["files"]] == ["rows.jsonl"]
    assert f"training {source['training']['documents']} documents" in told
    assert source["file_bytes"] == (folder / "rows.jsonl").stat().st_size
    run = str(workplace / "runs" / "record")
    quiet = Console(quiet=True)
    assert "corpus_changes" not in run_evaluation(run, quiet, as_json=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[::-1]))
    (said,) = run_evaluation(run, quiet, as_json=True)["corpus_changes"]
    assert said.startswith(f"{folder}/rows.jsonl ")
