"""The corpus: packing, streams that resume, and what training must never see."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.corpus.corpus import Corpus, WindowStream, build_tokenizer, train_tokenizer
from actors.corpus.ranges import merge_ranges
from actors.corpus.reading_share import ReadingShare
from actors.corpus.windows import PADDING, Windows
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.sources.facts import FactTable
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import CorpusError
from tests.unit.actors.corpus.test_block_reader import on_ranks
from tests.unit.actors.corpus.test_windows import documents_of
from tests.unit.actors.sources.test_file_source import opened, write_rows
from tests.unit.actors.tiny import numbered_lines, run_spec, write_facts, write_text
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, marks, saved


def same(one: Windows, other: Windows) -> bool:
    return all(
        np.array_equal(a, b)
        for a, b in (
            (one.tokens_NT, other.tokens_NT),
            (one.segments_NT, other.segments_NT),
            (one.learn_NT, other.learn_NT),
        )
    )


def epoch(corpus: Corpus, number: int = 0, stream: str = "data") -> Windows:
    size = corpus.chunks_per_epoch
    return Windows.concat([corpus.chunk(stream, number * size + i) for i in range(size)])


def sentences(windows: Windows, tokenizer: Tokenizer) -> list[tuple[int, str]]:
    return [(row, tokenizer.decode(tokens)) for row, tokens in documents_of(windows)]


@pytest.fixture
def facts_spec(facts_corpus: CorpusSpec) -> RunSpec:
    return run_spec(facts_corpus)


@pytest.fixture
def facts(facts_spec: RunSpec, tokenizer: Tokenizer) -> Corpus:
    return Corpus.open(facts_spec, tokenizer)


@pytest.fixture(scope="module")
def text_spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    return run_spec(write_text(tmp_path_factory.mktemp("text"), numbered_lines(200)))


@pytest.fixture(scope="module")
def text_tokenizer(text_spec: RunSpec) -> Tokenizer:
    return train_tokenizer(text_spec)


@pytest.fixture
def text(text_spec: RunSpec, text_tokenizer: Tokenizer) -> Corpus:
    return Corpus.open(text_spec, text_tokenizer)


@pytest.fixture
def blocks(tmp_path: Path, text_tokenizer: Tokenizer) -> Corpus:
    """A text of many small chunks."""
    return Corpus.open(
        run_spec(write_text(tmp_path, numbered_lines(40), block_bytes=256, shuffle_blocks=1)),
        text_tokenizer,
    )


# streams


@pytest.mark.parametrize("kind", ["facts", "text", "blocks"])
def test_a_stream_resumes_at_the_exact_next_batch(
    kind: str, request: pytest.FixtureRequest
) -> None:
    corpus = request.getfixturevalue(kind)
    whole = WindowStream(corpus, "data")
    for _ in range(25):
        resumed = WindowStream(corpus, "data", whole.state)
        assert same(resumed.next_batch(3)[0], whole.next_batch(3)[0])


def test_batches_follow_each_other_without_gap_or_repeat(blocks: Corpus) -> None:
    stream = WindowStream(blocks, "data")
    got = Windows.concat([stream.next_batch(num)[0] for num in (1, 5, 17, 2)])
    chunks = [blocks.chunk("data", index) for index in range(40)]
    assert same(got, Windows.concat(chunks)[:25])


def test_ranges_in_order_read_the_same_windows_again(
    blocks: Corpus, text_spec: RunSpec, text_tokenizer: Tokenizer
) -> None:
    stream = WindowStream(blocks, "data")
    batches = [stream.next_batch(num) for num in (1, 5, 17, 2)]
    ranges = merge_ranges(r for _, batch_ranges in batches for r in batch_ranges)
    again = WindowStream(blocks, "data").read(ranges)
    assert same(again, Windows.concat([windows for windows, _ in batches]))


def test_two_streams_read_in_different_orders(facts: Corpus) -> None:
    one, other = (WindowStream(facts, name).next_batch(6)[0] for name in ("data", "memory"))
    assert not same(one, other)


def test_two_epochs_read_in_different_orders(facts: Corpus) -> None:
    assert not same(epoch(facts, 0), epoch(facts, 1))


def test_two_corpora_of_one_spec_give_the_same_windows(
    facts_spec: RunSpec, tokenizer: Tokenizer
) -> None:
    one, other = (Corpus.open(facts_spec, tokenizer) for _ in range(2))
    other.chunk("memory", 3)  # what was read before makes no difference
    assert same(one.chunk("data", 1), other.chunk("data", 1))


def blank_text(folder: Path) -> RunSpec:
    return run_spec(write_text(folder, [""] * 4000))


def one_long_row(folder: Path) -> RunSpec:
    (folder / "a.jsonl").write_text(json.dumps({"text": "x y " * 4000}))
    spec = CorpusSpec(paths=(str(folder / "a.jsonl"),), block_bytes=1024)
    return run_spec(spec, seed=0)  # its block is held out


def null_rows(folder: Path) -> RunSpec:
    (folder / "a.jsonl").write_text('{"text": null}\n' * 4000)
    return run_spec(CorpusSpec(paths=(str(folder / "a.jsonl"),), block_bytes=1024))


@pytest.mark.parametrize(
    ("empty", "why"),
    [
        (blank_text, r"blocks of \d+ bytes hold nothing but white space; give more text$"),
        (
            one_long_row,
            r"1 row\(s\), the longest of 16,012 bytes, leave .*; give more and shorter rows$",
        ),
        (null_rows, r"4,000 row\(s\).* one whose text is null or blank is left out"),
    ],
)
def test_a_corpus_without_a_training_document_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, empty: Any, why: str
) -> None:
    calls, chunk = itertools.count(), Corpus.chunk

    def counted(self: Corpus, stream: str, index: int) -> Windows:
        assert next(calls) < 50, "the stream looks for a window for ever"
        return chunk(self, stream, index)

    monkeypatch.setattr(Corpus, "chunk", counted)
    spec = empty(tmp_path)
    with pytest.raises(CorpusError, match=f"the training split is empty: .*{why}"):
        WindowStream(Corpus.open(spec, tokenizer), "data").next_batch(1)


# what training sees


@pytest.mark.parametrize("number", [0, 1])
def test_every_fact_is_trained_on_once_per_epoch_in_each_training_wording(
    facts: Corpus, tokenizer: Tokenizer, number: int
) -> None:
    assert facts.facts is not None
    table = facts.facts
    want = Counter(w.sentence(f) for f in table.facts for w in table.train_wordings[f.relation])
    assert Counter(s for _, s in sentences(epoch(facts, number), tokenizer)) == want


def test_every_block_of_text_is_trained_on_once_per_epoch(
    text: Corpus, text_spec: RunSpec, text_tokenizer: Tokenizer
) -> None:
    source, mark = (
        opened(text_spec.corpus, text_spec.seed),
        text_tokenizer.end_of_text,
    )
    want: Counter[tuple[int, ...]] = Counter()
    for index in range(source.num_blocks):
        for document in source.block(index):
            tokens = [mark, *text_tokenizer.encode(document.text), mark]
            for at in range(0, len(tokens), text_spec.corpus.window):
                cut = tuple(tokens[at : at + text_spec.corpus.window])
                want[cut] += len(cut) > 1
    assert Counter(tokens for _, tokens in documents_of(epoch(text))) == +want


@pytest.mark.parametrize("loss_on", ["all", "answers"])
def test_no_held_out_wording_is_trained_on(
    tmp_path: Path, tokenizer: Tokenizer, loss_on: str
) -> None:
    corpus = Corpus.open(run_spec(write_facts(tmp_path, loss_on=loss_on)), tokenizer)
    table = corpus.facts
    assert isinstance(table, FactTable)
    trained = {s for number in (0, 1) for _, s in sentences(epoch(corpus, number), tokenizer)}
    for fact in table.facts:
        for wording in table.heldout_wordings[fact.relation]:
            assert wording.sentence(fact) not in trained


def test_no_held_out_text_is_trained_on(text: Corpus, text_tokenizer: Tokenizer) -> None:
    def numbers(windows: Windows) -> set[str]:
        words = " ".join(s for _, s in sentences(windows, text_tokenizer)).split()
        return {w for w in words if w.startswith("#") and len(w) == 5}

    heldout = numbers(text.heldout(10_000))
    assert len(heldout) > 5
    assert not heldout & numbers(epoch(text))


def test_the_held_out_windows_of_facts_are_the_held_out_wordings(
    facts: Corpus, tokenizer: Tokenizer
) -> None:
    assert facts.facts is not None
    table = facts.facts
    want = Counter(w.sentence(f) for f in table.facts for w in table.heldout_wordings[f.relation])
    assert Counter(s for _, s in sentences(facts.heldout(10_000), tokenizer)) == want


def test_held_out_windows_are_limited_and_spread_over_the_split(text: Corpus) -> None:
    every = text.heldout(10_000)
    few = text.heldout(3)
    assert same(few, every[np.array([0, round((len(every) - 1) / 2), len(every) - 1])])


def test_an_empty_held_out_split_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    lines = ["x" * 255, *[""] * 256]  # the second block is blank
    spec = run_spec(write_text(tmp_path, lines, block_bytes=256), seed=1)
    with pytest.raises(
        CorpusError,
        match=r"held-out split is empty: its 1 of 2 blocks of 256 bytes hold nothing but white "
        r"space; give more text, or raise corpus\.heldout_frac$",
    ):
        Corpus.open(spec, tokenizer).heldout(4)


@pytest.mark.parametrize("seed", range(6))
def test_one_document_of_jsonl_is_refused_with_every_seed_and_the_length_of_its_line(
    tmp_path: Path, tokenizer: Tokenizer, seed: int
) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "some words " * 9000}))
    spec = CorpusSpec(paths=(str(tmp_path / "one.jsonl"),), block_bytes=16384)
    corpus = Corpus.open(run_spec(spec, seed=seed), tokenizer)
    why = r"empty: 1 row\(s\), the longest of 99,012 bytes, leave its \d of 7 blocks .*; give more "
    in_training = corpus.chunk("data", 0).num_tokens > 0
    with pytest.raises(CorpusError, match=why) as refused:
        corpus.heldout(4) if in_training else WindowStream(corpus, "data").next_batch(1)
    assert "loss_on" not in str(refused.value)


def test_no_subject_is_packed_twice_into_a_window(facts: Corpus, tokenizer: Tokenizer) -> None:
    assert facts.facts is not None
    subjects = {f.subject for f in facts.facts.facts}
    seen = [
        (row, next(s for s in subjects if s in sentence))
        for row, sentence in sentences(facts.chunk("data", 0), tokenizer)
    ]
    assert len(set(seen)) == len(seen)


def test_windows_do_hold_several_documents(facts: Corpus) -> None:
    windows = facts.chunk("data", 0)
    assert len(documents_of(windows)) > 1.5 * len(windows)


def test_where_only_answers_are_learned_an_object_and_what_follows_it_is(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    corpus = Corpus.open(run_spec(write_facts(tmp_path, loss_on="answers")), tokenizer)
    assert corpus.facts is not None
    windows, mark = epoch(corpus), tokenizer.end_of_text
    learned = []
    for row in range(len(windows)):
        for segment in range(windows.segments_NT[row].max() + 1):
            at = (windows.segments_NT[row] == segment) & windows.learn_NT[row]
            learned.append(windows.tokens_NT[row, at].tolist())
    assert all(ids[-1] == mark for ids in learned)
    objects = {f" {f.object}." for f in corpus.facts.facts}
    assert {tokenizer.decode(ids) for ids in learned} == objects


def test_where_all_is_learned_every_token_is(facts: Corpus) -> None:
    windows = facts.chunk("data", 0)
    assert np.array_equal(windows.learn_NT, windows.segments_NT != PADDING)


def test_every_document_opens_and_closes_with_the_mark(facts: Corpus, tokenizer: Tokenizer) -> None:
    mark = tokenizer.end_of_text
    ends = {(ids[0], ids[-1]) for _, ids in documents_of(facts.chunk("data", 0))}
    assert ends == {(mark, mark)}


def test_the_tokenizer_is_trained_on_the_training_split_alone(tmp_path: Path) -> None:
    lines = [f"#{n:04d} " + "abcd" * 62 for n in range(40)]
    spec = write_text(tmp_path, lines, block_bytes=256, heldout_frac=0.25)
    run = run_spec(spec)
    before = train_tokenizer(run).to_json()
    heldout = {line for d in opened(spec, run.seed).heldout() for line in d.text.split("\n")}
    changed = ["#" + "z" * (len(line) - 1) if line in heldout else line for line in lines]
    assert changed != lines
    write_text(tmp_path, changed)
    assert train_tokenizer(run).to_json() == before


def test_training_windows_depend_on_the_seed(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    one, other = (
        Corpus.open(run_spec(facts_corpus, seed=seed), tokenizer).chunk("data", 0)
        for seed in (1, 2)
    )
    assert not same(one, other)


# as it was before there were several kinds of files


def digest(corpus: Corpus) -> str:
    whole = hashlib.sha256()
    windows = [corpus.chunk(stream, i) for stream in ("data", "memory") for i in range(5)]
    for part in (*windows, corpus.heldout(7), corpus.heldout(10_000)):
        for array in (part.tokens_NT, part.segments_NT, part.learn_NT):
            whole.update(str(array.dtype).encode() + str(array.shape).encode() + array.tobytes())
    return whole.hexdigest()[:16]


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        ("all", "2c3792c6359ad1ce"),
        ("answers", "adef14eb48b2e741"),
        ("text", "bfd2e71c01468ca8"),
    ],
)
def test_text_and_facts_give_the_windows_that_they_always_gave(
    tmp_path: Path, kind: str, want: str
) -> None:
    if kind == "text":
        corpus = write_text(tmp_path, numbered_lines(200))
    else:
        corpus = write_facts(tmp_path, loss_on=kind)
    spec = run_spec(corpus)
    assert digest(Corpus.open(spec, train_tokenizer(spec))) == want


# several sources


MixedSpec = Callable[..., RunSpec]


@pytest.fixture(scope="module")
def mixed_spec(tmp_path_factory: pytest.TempPathFactory) -> MixedSpec:
    """Makes specs of a mixture of text, JSONL with other columns, and Parquet of short rows."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)

    def words(mark: str, num: int) -> str:
        return f"{mark} " + " ".join(str(n) for n in rng.integers(0, 999, num))

    write_text(folder, [words("text", 20) for _ in range(600)])
    rows = [{"meta": "m" * 200, "body": words("jsonl", 30)} for _ in range(450)]
    write_rows(folder / "b.jsonl.gz", rows)
    pairs = [{"q": words("parquet", 5), "a": words("", 3)} for _ in range(750)]
    write_rows(folder / "c.parquet", pairs, row_group_size=100)
    sources = [
        {"paths": [str(folder / "text.txt")]},
        {"paths": [str(folder / "b.jsonl.gz")], "text_column": "body"},
        {"paths": [str(folder / "c.parquet")], "prompt_column": "q", "completion_column": "a"},
    ]

    def spec(*weights: float, **fields: Any) -> RunSpec:
        corpus = {
            "sources": [{**s, "weight": w} for s, w in zip(sources, weights, strict=True)],
            "block_bytes": 512,
            "window": 48,
            "shuffle_blocks": 16,
            "spool": str(folder / "spool"),
            **fields,
        }
        return run_spec(CorpusSpec.model_validate(corpus), tokenizer__vocab_size=320)

    return spec


@pytest.fixture(scope="module")
def mixed_tokenizer(mixed_spec: MixedSpec) -> Tokenizer:
    return train_tokenizer(mixed_spec(1.0, 1.0, 1.0))


SOURCE_MARKS = ("text", "jsonl", "parquet")


def tokens_by_source(corpus: Corpus, windows: Sequence[Windows]) -> list[int]:
    """Tokens of each source, by the word that its documents begin with; cut ones count on."""
    counts = dict.fromkeys(SOURCE_MARKS, 0)
    for part in windows:
        for _, ids in documents_of(part):
            text = corpus.tokenizer.decode(ids)
            found = [mark for mark in SOURCE_MARKS if mark in text]
            if len(found) == 1:
                counts[found[0]] += len(ids)
    return [counts[mark] for mark in SOURCE_MARKS]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 2.0), (6.0, 1.0, 3.0)])
def test_sources_have_the_shares_of_the_tokens_that_their_weights_say(
    mixed_spec: MixedSpec, mixed_tokenizer: Tokenizer, weights: tuple[float, ...]
) -> None:
    corpus = Corpus.open(mixed_spec(*weights, window=4096), mixed_tokenizer)
    counts = tokens_by_source(corpus, [corpus.chunk("data", i) for i in range(60)])
    shares = [count / sum(counts) for count in counts]
    assert shares == pytest.approx([w / sum(weights) for w in weights], rel=0.05)


def test_the_held_out_windows_hold_every_source_by_its_weight(
    mixed_spec: MixedSpec, mixed_tokenizer: Tokenizer
) -> None:
    corpus = Corpus.open(mixed_spec(6.0, 1.0, 3.0), mixed_tokenizer)
    assert [len(corpus.heldout(limit)) for limit in (1, 3, 10, 20)] == [1, 3, 10, 20]
    counts = tokens_by_source(corpus, [corpus.heldout(10)])
    assert all(counts)
    assert counts[0] > counts[2] > counts[1]


def test_no_held_out_document_of_a_mixture_is_trained_on(
    mixed_spec: MixedSpec, mixed_tokenizer: Tokenizer
) -> None:
    corpus = Corpus.open(mixed_spec(1.0, 1.0, 1.0, window=4096), mixed_tokenizer)
    chunks = [corpus.chunk("data", i) for i in range(corpus.chunks_per_epoch)]
    trained = {ids for chunk in chunks for _, ids in documents_of(chunk)}
    heldout = {ids for _, ids in documents_of(corpus.heldout(100))}
    assert heldout
    assert not heldout & trained


def test_a_stream_of_a_mixture_resumes_at_the_exact_next_batch(
    mixed_spec: MixedSpec, mixed_tokenizer: Tokenizer
) -> None:
    spec = mixed_spec(2.0, 0.3, 1.0)
    whole = WindowStream(Corpus.open(spec, mixed_tokenizer), "data")
    for _ in range(4):
        resumed = WindowStream(Corpus.open(spec, mixed_tokenizer), "data", whole.state)
        assert same(resumed.next_batch(133)[0], whole.next_batch(133)[0])
    assert whole.state[0] > 4


def test_the_tokenizer_of_a_mixture_is_trained_on_every_source(mixed_tokenizer: Tokenizer) -> None:
    assert all(len(mixed_tokenizer.encode(mark)) <= 3 for mark in SOURCE_MARKS)


def test_a_source_without_text_is_refused_by_name(tmp_path: Path) -> None:
    for name, line in (("blank", ""), ("full", "x" * 99)):
        (tmp_path / f"{name}.txt").write_text(f"{line}\n" * 9000)
    sources = [{"paths": [str(tmp_path / f"{name}.txt")]} for name in ("blank", "full")]
    spec = run_spec(CorpusSpec.model_validate({"sources": sources, "block_bytes": 512}))
    with pytest.raises(CorpusError, match=r"blank\.txt: no text in any of"):
        train_tokenizer(spec)


# ranks that share the reading


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("kind", ["facts_corpus", "text_spec", "mixed_spec"])
@pytest.mark.parametrize("background", [False, True])
def test_every_rank_has_the_windows_of_a_single_process(
    num_ranks: int,
    kind: str,
    background: bool,
    mixed_tokenizer: Tokenizer,
    request: pytest.FixtureRequest,
) -> None:
    made = request.getfixturevalue(kind)
    if kind != "text_spec":
        made = run_spec(made) if kind == "facts_corpus" else made(2.0, 1.0, 1.0)
    spec, tokenizer = made, mixed_tokenizer

    def batches(shard: ReadingShare | None) -> list[Windows]:
        corpus = Corpus.open(spec, tokenizer, shard)
        own, peer = WindowStream(corpus, "data"), WindowStream(corpus, "memory")
        return [s.next_batch(num)[0] for num in (1, 7, 30, 2) for s in (own, peer)]

    want = batches(None)
    for got in on_ranks(num_ranks, batches, background):
        assert all(same(one, other) for one, other in zip(got, want, strict=True))


# chunks made ahead


def chunk_threads(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    made: list[tuple[int, str]] = []
    chunk = Corpus.chunk

    def noted(self: Corpus, stream: str, index: int) -> Windows:
        made.append((index, threading.current_thread().name))
        return chunk(self, stream, index)

    monkeypatch.setattr(Corpus, "chunk", noted)
    return made


def test_the_next_chunk_is_made_ahead_in_the_background(
    blocks: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = chunk_threads(blocks, monkeypatch)
    stream = WindowStream(blocks, "data")
    stream.next_batch(1)
    stream._chunk(1)  # waits for what is under way
    assert [index for index, _ in made] == [0, 1]
    assert all(name.startswith("tandem-chunks") for _, name in made)


def test_ranks_that_gather_on_the_trainer_s_thread_make_nothing_ahead(
    text_spec: RunSpec, text_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = ReadingShare(0, 2, lambda payload: [payload, payload])
    corpus = Corpus.open(text_spec, text_tokenizer, shard)
    monkeypatch.setattr(corpus._reader, "read", lambda places: [[] for _ in places])
    made = chunk_threads(corpus, monkeypatch)
    corpus.request("data", 0)
    assert corpus.request("data", 1, ahead=True) is None
    assert made == [(0, threading.main_thread().name)]


def test_an_error_in_the_background_is_raised_where_the_chunk_is_wanted(
    tmp_path: Path, text_tokenizer: Tokenizer
) -> None:
    spec = run_spec(write_text(tmp_path, numbered_lines(40), block_bytes=256, shuffle_blocks=1))
    stream = WindowStream(Corpus.open(spec, text_tokenizer), "data")
    stream.next_batch(1)
    (tmp_path / "text.txt").unlink()
    with pytest.raises(CorpusError, match=r"text\.txt: can't be read"):
        stream.next_batch(500)


# tokenizers


def test_a_pretrained_tokenizer_is_used_where_one_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "tokenizer", byte_level("<s>", "</s>"))
    spec = run_spec(write_text(tmp_path, numbered_lines(40)), tokenizer__pretrained=folder)
    tokenizer = build_tokenizer(spec)
    assert marks(tokenizer) == ("<s>", "</s>")
    windows = Corpus.open(spec, Tokenizer.from_json(tokenizer.to_json())).chunk("data", 0)
    tokens = windows.tokens_NT[windows.segments_NT >= 0]
    assert {tokenizer.begin, tokenizer.end} <= set(tokens.tolist())


def test_a_missing_file_shows_with_a_pretrained_tokenizer_too(tmp_path: Path) -> None:
    folder = saved(tmp_path / "tokenizer", byte_level("</s>"))
    spec = run_spec(CorpusSpec(paths=(str(tmp_path / "gone"),)), tokenizer__pretrained=folder)
    with pytest.raises(CorpusError, match="gone: no such file"):
        build_tokenizer(spec)


def test_without_a_name_a_tokenizer_is_trained(text_spec: RunSpec) -> None:
    assert build_tokenizer(text_spec).to_json() == train_tokenizer(text_spec).to_json()
