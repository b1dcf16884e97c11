"""A corpus of chats: its windows learn what the assistant says, the same on every rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.corpus.block_reader import encode, encode_each
from actors.corpus.corpus import Corpus, WindowStream, build_tokenizer
from actors.corpus.inventory import take_inventory
from actors.corpus.reading_share import ReadingShare
from actors.corpus.windows import PADDING, Piece, Windows, pack
from actors.settings.corpus import CorpusSpec, TokenizerSpec
from actors.settings.run import RunSpec
from actors.sources.chats import read_chat
from actors.sources.documents import Document
from actors.wire import ConfigError, CorpusError
from tests.unit.actors.chats import CHATML, INST, TALK, THINKING, chat_tokenizer, talks
from tests.unit.actors.corpus.test_block_reader import on_ranks
from tests.unit.actors.corpus.test_corpus import same
from tests.unit.actors.sources.test_file_source import write_rows
from tests.unit.actors.tiny import run_spec


def chat_spec(folder: Path, template: str | None = CHATML, **fields: Any) -> RunSpec:
    """A run on 120 chats, with a tokenizer that writes them."""
    rows = talks(120)
    write_rows(folder / "chats.jsonl", rows)
    chat_tokenizer(folder / "tokenizer", template)
    corpus = {"paths": (str(folder / "chats.jsonl"),), "messages_column": "messages",
              "window": 96, "block_bytes": 512, **fields}  # fmt: skip
    chosen = TokenizerSpec(pretrained=str(folder / "tokenizer"))
    return run_spec(CorpusSpec(**corpus)).model_copy(update={"tokenizer": chosen})


def learned_texts(corpus: Corpus, windows: Windows) -> list[str]:
    found = []
    for tokens_T, segments_T, learn_T in zip(
        windows.tokens_NT, windows.segments_NT, windows.learn_NT, strict=True
    ):
        for segment in range(int(segments_T.max()) + 1):
            at = (segments_T == segment) & learn_T & (segments_T != PADDING)
            found.append(corpus.tokenizer.decode(tokens_T[at].tolist()))
    return found


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    spec = chat_spec(tmp_path)
    return Corpus.open(spec, build_tokenizer(spec))


def test_windows_learn_what_the_assistant_says_and_nothing_else(corpus: Corpus) -> None:
    size = corpus.chunks_per_epoch
    epoch = Windows.concat([corpus.chunk("data", i) for i in range(size)])
    said = learned_texts(corpus, Windows.concat([epoch, corpus.heldout(1000)]))
    assert sorted(said) == sorted(f"It is {n + 1}.<|im_end|>\n" for n in range(120))


def test_a_stream_of_chats_resumes_at_the_exact_next_batch(corpus: Corpus) -> None:
    whole = WindowStream(corpus, "data")
    for _ in range(8):
        resumed = WindowStream(corpus, "data", whole.state)
        assert same(resumed.next_batch(3)[0], whole.next_batch(3)[0])


def test_ranks_that_share_the_reading_have_the_windows_of_one_process(tmp_path: Path) -> None:
    spec = chat_spec(tmp_path)
    tokenizer = build_tokenizer(spec)
    alone = Corpus.open(spec, tokenizer).chunk("data", 0)

    def work(share: ReadingShare) -> Windows:
        return Corpus.open(spec, tokenizer, share).chunk("data", 0)

    assert all(same(windows, alone) for windows in on_ranks(3, work))


def test_a_long_chat_is_cut_and_the_marks_go_with_the_pieces(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path)
    talk = [*TALK, *TALK[1:] * 6]
    (piece,) = encode(tokenizer, [Document("", chat=read_chat(talk, None, str))])
    assert piece.learn_T is not None
    windows = pack([piece], 48, 0)
    assert len(windows) < len(piece.tokens) / 48 + 1
    got = windows.tokens_NT[windows.learn_NT].tolist()
    kept = [piece.cut(i, i + 48) for i in range(0, len(piece.tokens), 48)]
    want = [t for part in kept if part.teaches
            for t in np.asarray(part.tokens)[part.learn_T[: len(part.tokens)]].tolist()
            if part.learn_T is not None]  # fmt: skip
    assert sorted(got) == sorted(want)


@pytest.mark.parametrize(
    ("learn", "teaches"), [([True, False, False], False), ([False, False, True], True)]
)
def test_a_piece_whose_first_token_alone_is_learned_teaches_nothing(
    learn: list[bool], teaches: bool
) -> None:
    piece = Piece([5, 6, 7], learn_T=np.array(learn))
    assert piece.teaches == teaches
    assert len(pack([piece], 8, 0)) == int(teaches)


def test_texts_and_chats_keep_their_order(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path, THINKING)
    chat = Document("", chat=read_chat(TALK, None, str))
    found = encode_each(tokenizer, [Document("one"), chat, Document("two"), chat])
    assert [len(pieces) for pieces in found] == [1, 2, 1, 2]
    assert [pieces[0].learn_T is None for pieces in found] == [True, False, True, False]


def test_chats_and_texts_are_mixed_by_weight(tmp_path: Path) -> None:
    spec = chat_spec(tmp_path)
    write_rows(tmp_path / "texts.jsonl", [{"text": f"the land of {n}"} for n in range(300)])
    sources = (
        {"paths": [str(tmp_path / "chats.jsonl")], "messages_column": "messages", "weight": 3},
        {"paths": [str(tmp_path / "texts.jsonl")], "weight": 1},
    )
    mixed = CorpusSpec(sources=sources, window=96, block_bytes=512, shuffle_blocks=16)
    spec = spec.model_copy(update={"corpus": mixed})
    tokenizer = build_tokenizer(spec)
    corpus = Corpus.open(spec, tokenizer)
    start = tokenizer.vocabulary()["<|im_start|>"]
    of_chats = total = 0
    for number in range(12):
        windows = corpus.chunk("data", number)
        for tokens_T, segments_T in zip(windows.tokens_NT, windows.segments_NT, strict=True):
            for segment in range(int(segments_T.max()) + 1):
                tokens = tokens_T[segments_T == segment]
                total += len(tokens)
                of_chats += len(tokens) if start in tokens else 0
    assert of_chats / total == pytest.approx(0.75, abs=0.08)


def test_a_tokenizer_is_trained_on_what_messages_say(tmp_path: Path) -> None:
    (tmp_path / "inst.jinja").write_text(INST)
    chosen = TokenizerSpec(chat_template=str(tmp_path / "inst.jinja"), vocab_size=400)
    spec = chat_spec(tmp_path).model_copy(update={"tokenizer": chosen})
    tokenizer = build_tokenizer(spec)
    assert len(tokenizer.encode("How much is")) < 8
    windows = Corpus.open(spec, tokenizer).chunk("data", 0)
    assert 0 < windows.learn_NT.sum() < windows.num_tokens


def test_a_run_whose_tokenizer_has_no_template_is_refused_at_its_start(tmp_path: Path) -> None:
    spec = chat_spec(tmp_path, template=None)
    with pytest.raises(ConfigError, match=r"no chat template: .*tokenizer\.chat_template"):
        take_inventory(spec, build_tokenizer(spec))


def test_a_template_that_fails_names_the_line_at_the_start(tmp_path: Path) -> None:
    spec = chat_spec(tmp_path, INST)
    rows = [{"messages": TALK}] * 30
    write_rows(tmp_path / "chats.jsonl", rows)
    with pytest.raises(CorpusError, match=r"chats\.jsonl, line \d+: the chat template can't"):
        take_inventory(spec, build_tokenizer(spec))


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, r"no\.jinja: .*No such file"), ("{% for m in x %}", r"no\.jinja: TemplateSyntaxError")],
)
def test_a_template_by_file_that_is_none_is_refused(
    tmp_path: Path, text: str | None, said: str
) -> None:
    path = tmp_path / "no.jinja"
    if text is not None:
        path.write_text(text)
    spec = chat_spec(tmp_path)
    chosen = spec.tokenizer.model_copy(update={"chat_template": str(path)})
    with pytest.raises(ConfigError, match=rf"tokenizer\.chat_template .*{said}"):
        build_tokenizer(spec.model_copy(update={"tokenizer": chosen}))


def test_special_tokens_in_messages_are_counted_and_warned_of(tmp_path: Path) -> None:
    spec = chat_spec(tmp_path)
    rows = talks(120)
    rows[7]["messages"][0]["content"] += "<|im_end|>"
    write_rows(tmp_path / "chats.jsonl", rows)
    found = take_inventory(spec, build_tokenizer(spec))
    assert found.sources[0].num_chats == 120
    assert found.sources[0].in_messages == {"<|im_end|>": 1}
    assert found.special_tokens == {}
    (said,) = found.warnings()
    assert said.startswith("special tokens of the tokenizer are written in messages of chats: ")
    assert "<|im_end|> once" in said
