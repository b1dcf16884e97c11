"""Pretrained tokenizers: which marks open and close a document, and what a bad one says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as HFTokenizer

from actors.corpus.block_reader import encode
from actors.measuring.probing import prompt_tokens
from actors.settings.corpus import TokenizerSpec
from actors.sources.documents import Document
from actors.tokenizers.pretrained_tokenizer import looks_local
from actors.tokenizers.prompt import load_prompt_tokenizer
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError

LINES = ["the capital of the land is the city of the river"] * 20


def byte_level(*special: str) -> HFTokenizer:
    """One like GPT-2's, Qwen's and Llama 3's."""
    hf = HFTokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    hf.train_from_iterator(LINES, trainer)
    hf.add_special_tokens([AddedToken(t, special=True) for t in special])
    return hf


def sentence_piece() -> HFTokenizer:
    """One like Llama 2's: a space before every text, bytes for what it doesn't know."""
    special = ["<unk>", "<s>", "</s>"]
    pieces = [*special, *(f"<0x{n:02X}>" for n in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz?."]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("i", "s"), ("▁", "is")]
    pieces += [one + other for one, other in merges]
    hf = HFTokenizer(
        models.BPE(
            {piece: number for number, piece in enumerate(pieces)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    hf.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    hf.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    hf.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return hf


def saved(folder: Path, hf: HFTokenizer, **config: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(hf.to_str(), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def marks(tokenizer: Tokenizer) -> tuple[str | None, str | None]:
    return tokenizer.begin_token, tokenizer.end_token


LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>")


@pytest.mark.parametrize(
    ("special", "config", "want"),
    [
        (LLAMA3, {"bos_token": LLAMA3[0], "eos_token": LLAMA3[1]}, LLAMA3),
        (("<|endoftext|>",), {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
         ("<|endoftext|>",) * 2),
        (("<|endoftext|>", "<|im_end|>"), {"bos_token": None, "eos_token": "<|im_end|>"},
         ("<|im_end|>",) * 2),
        (("<a>", "<b>"), {"bos_token": {"content": "<a>"}, "eos_token": {"content": "<b>"}},
         ("<a>", "<b>")),
        (("<s>",), {"bos_token": "<s>"}, ("<s>", "<s>")),
        (("<s>", "</s>"), {}, ("<s>", "</s>")),
        (("<|endoftext|>",), {}, ("<|endoftext|>",) * 2),
    ],
    ids=["llama-3", "gpt2", "qwen", "objects", "begin-only", "usual-pair", "usual-end"],
)  # fmt: skip
def test_the_marks_are_those_that_the_files_name(
    tmp_path: Path, special: tuple[str, ...], config: dict[str, Any], want: tuple[str, str]
) -> None:
    tokenizer = Tokenizer.from_pretrained(saved(tmp_path, byte_level(*special), **config))
    assert marks(tokenizer) == want


def test_marks_may_stand_in_the_map_of_special_tokens(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level("<a>", "<b>"))
    said = {"bos_token": "<a>", "eos_token": {"content": "<b>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(said))
    assert marks(Tokenizer.from_pretrained(folder)) == ("<a>", "<b>")


def test_marks_may_stand_in_the_template_of_a_lone_file(tmp_path: Path) -> None:
    hf = byte_level("<a>", "<b>")
    hf.post_processor = processors.Sequence(
        [
            processors.ByteLevel(),
            processors.TemplateProcessing(
                single="<a> $A <b>",
                pair="<a> $A $B <b>",
                special_tokens=[(t, hf.token_to_id(t)) for t in ("<a>", "<b>")],
            ),
        ]
    )
    saved(tmp_path, hf)
    assert marks(Tokenizer.from_pretrained(str(tmp_path / "tokenizer.json"))) == ("<a>", "<b>")


def test_what_is_written_has_the_marks_when_it_is_read(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(saved(tmp_path, byte_level("<s>", "</s>")))
    again = Tokenizer.from_json(tokenizer.to_json())
    assert (again.begin, again.end, marks(again)) == (
        tokenizer.begin,
        tokenizer.end,
        ("<s>", "</s>"),
    )
    assert again.to_json() == tokenizer.to_json()
    assert again.encode("the land") == tokenizer.encode("the land")


def test_what_is_written_loads_as_a_plain_tokenizer_that_sets_the_marks(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(saved(tmp_path, byte_level("<s>", "</s>")))
    theirs = HFTokenizer.from_str(tokenizer.to_json())
    assert theirs.encode("the land").ids == [
        tokenizer.begin,
        *tokenizer.encode("the land"),
        tokenizer.end,
    ]


@pytest.mark.parametrize("text", ["a</s>b", "<s>", " </s> ", "x<|other|>y"])
def test_no_text_makes_a_special_token(tmp_path: Path, text: str) -> None:
    hf = byte_level("<s>", "</s>", "<|other|>")
    tokenizer = Tokenizer.from_pretrained(saved(tmp_path, hf))
    special = {hf.token_to_id(t) for t in ("<s>", "</s>", "<|other|>")}
    assert not special & set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_mark_that_was_an_ordinary_added_token_is_made_special(tmp_path: Path) -> None:
    hf = byte_level()
    hf.add_tokens([AddedToken("<end>", special=False)])
    tokenizer = Tokenizer.from_pretrained(saved(tmp_path, hf, eos_token="<end>"))
    assert tokenizer.end not in tokenizer.encode("a<end>b")


def test_a_tokenizer_whose_text_makes_a_mark_is_refused(tmp_path: Path) -> None:
    hf = HFTokenizer(models.WordLevel({"|": 0, "a": 1, "<unk>": 2}, unk_token="<unk>"))
    hf.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(ConfigError, match=r"becomes a document mark.*tokenizer\.end"):
        Tokenizer.from_pretrained(saved(tmp_path, hf, eos_token="|"))


def unigram() -> HFTokenizer:
    """One like XGLM's and llm-jp's, whose pieces hold the marks."""
    letters = [(letter, -3.0) for letter in "abcdefghilnoprstuvy/<>▁"]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *letters, ("▁the", -1.0)]
    hf = HFTokenizer(models.Unigram(pieces, unk_id=0))
    hf.pre_tokenizer, hf.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    hf.add_special_tokens(["<unk>", "<s>", "</s>"])
    return hf


def test_pieces_of_a_unigram_model_that_are_marks_are_never_made_by_text(tmp_path: Path) -> None:
    folder = saved(tmp_path / "given", unigram(), bos_token="<s>", eos_token="</s>")
    given = Tokenizer.from_pretrained(folder)
    for tokenizer in (given, Tokenizer.from_json(given.to_json())):
        assert (tokenizer.begin, tokenizer.end) == (1, 2)
        for text in ("</s>", "the a</s>b", "<s>the</s>"):
            assert not {1, 2} & set(tokenizer.encode(text))
            assert tokenizer.decode(tokenizer.encode(text)) == text
        plain = unigram().encode("the land of the river", add_special_tokens=False)
        assert tokenizer.encode("the land of the river") == plain.ids


def test_a_unigram_model_is_exported_as_it_was_given(tmp_path: Path) -> None:
    folder = saved(tmp_path / "given", unigram(), bos_token="<s>", eos_token="</s>")
    (tmp_path / "export").mkdir()
    Tokenizer.from_pretrained(folder).write(tmp_path / "export")
    given, exported = (
        json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("given", "export")
    )
    assert exported == given


def test_ids_with_holes_are_counted_to_the_largest(tmp_path: Path) -> None:
    hf = byte_level("</s>")
    content = json.loads(hf.to_str())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 500, "content": "<far>"})
    content["model"]["vocab"]["<far>"] = 500
    tokenizer = Tokenizer.from_pretrained(
        saved(tmp_path, HFTokenizer.from_str(json.dumps(content)))
    )
    assert tokenizer.size == 501


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    hf = byte_level("</s>")
    hf.enable_truncation(4)
    hf.enable_padding(length=8)
    tokenizer = Tokenizer.from_pretrained(saved(tmp_path, hf))
    again = Tokenizer.from_json(tokenizer.to_json())
    for one in (tokenizer, again):
        assert one.decode(one.encode(LINES[0])) == LINES[0]
        assert len(one.encode("a")) == 1


@pytest.mark.parametrize(
    ("given", "text"),
    [("the capital", " is the city"), ("a?", "b"), ("", "the"), ("x ", "the"), ("é", "日本")],
)
def test_a_completion_has_the_tokens_that_follow_its_prompt(
    tmp_path: Path, given: str, text: str
) -> None:
    tokenizer = Tokenizer.from_pretrained(saved(tmp_path, sentence_piece()))
    ((ids, num_given),) = tokenizer.encode_pairs([(given, text)])
    assert ids == tokenizer.encode(given + text)
    if given and not given.endswith(" "):
        assert ids[:num_given] == tokenizer.encode(given)
    assert bool(given) == bool(num_given)
    assert num_given < len(ids)


def test_a_completion_of_a_byte_level_tokenizer_is_encoded_by_itself(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(saved(tmp_path, byte_level("</s>")))
    ((ids, num_given),) = tokenizer.encode_pairs([("the ca", "pital")])
    assert ids == [*tokenizer.encode("the ca"), *tokenizer.encode("pital")]
    assert num_given == len(tokenizer.encode("the ca"))


# what can't be used


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(
        ConfigError, match=r"no tokenizer\.json in that folder \(there are: tokenizer\.model\)"
    ):
        Tokenizer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./gone", "gone/tokenizer.json"])
def test_a_path_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such file or folder"):
        Tokenizer.from_pretrained(name)


@pytest.mark.parametrize("content", ["not json", "{}", "[]", '{"model": 3}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(ConfigError, match=r"tokenizer\.json can't be used"):
        Tokenizer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["[]", "not json", '"text"'])
def test_a_file_beside_it_that_is_no_json_object_is_named(
    tmp_path: Path, name: str, content: str
) -> None:
    folder = saved(tmp_path, byte_level("</s>"))
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=rf"{name} beside it.* fetch it again"):
        Tokenizer.from_pretrained(folder)


def test_a_tokenizer_without_a_token_to_close_a_document_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level("[CLS]", "[SEP]"))
    with pytest.raises(ConfigError, match=r"put eos_token .* special tokens are \[CLS\], \[SEP\]"):
        Tokenizer.from_pretrained(folder)


def test_a_mark_that_the_vocabulary_lacks_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level("<end>"), eos_token="</s>")
    with pytest.raises(ConfigError, match=r"no </s> token; .*tokenizer\.end .*\(<end>\)"):
        Tokenizer.from_pretrained(folder)
    assert Tokenizer.from_pretrained(folder, "none", "<end>").end_token == "<end>"


def test_a_hub_name_without_a_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"some/name: no such path, and as a hub name"):
        Tokenizer.from_pretrained("some/name")


def test_something_that_is_neither_path_nor_hub_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"neither a path that exists nor a hub name"):
        Tokenizer.from_pretrained("no such--name!")


def test_a_hub_name_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "models--some--name"
    saved(repo / "snapshots" / ("a" * 40), byte_level("<s>", "</s>"))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **options: real(name, cache_dir=tmp_path, **options),
    )
    assert marks(Tokenizer.from_pretrained("some/name")) == ("<s>", "</s>")


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("gpt2", False),
        ("openai-community/gpt2", False),
        ("/a/b", True),
        ("./a", True),
        ("../a", True),
        (".a", True),
        ("~/a", True),
        ("a/tokenizer.json", True),
        ("a/b/c", True),
        ("a/", True),
    ],
)
def test_a_hub_name_never_looks_local(name: str, local: bool) -> None:
    assert looks_local(name) == local


def test_files_behind_links_and_with_byte_order_marks_are_read(tmp_path: Path) -> None:
    saved(tmp_path / "blobs", byte_level("<s>", "</s>"), bos_token="<s>", eos_token="</s>")
    snapshot = tmp_path / "snap [1]::x"
    snapshot.mkdir()
    for path in (tmp_path / "blobs").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        (snapshot / path.name).symlink_to(path)
    (tmp_path / "linked").symlink_to(snapshot.name)
    for name in (snapshot, snapshot / "tokenizer.json", tmp_path / "linked"):
        assert marks(Tokenizer.from_pretrained(str(name))) == ("<s>", "</s>")


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_a_link_to_nothing_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer.json").symlink_to("gone")
    with pytest.raises(
        ConfigError, match=r"tokenizer\.json is a link to gone, which does not exist"
    ):
        Tokenizer.from_pretrained(str(tmp_path / name))


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match=r"tokenizer\.json is a pipe, expected a file"):
        Tokenizer.from_pretrained(str(tmp_path / name))


def test_the_vocabulary_is_listed_once_however_often_its_size_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = Tokenizer.train(["some words"], 300)
    asked: list[bool] = []
    listed = Tokenizer.vocabulary

    def vocabulary(self: Tokenizer) -> dict[str, int]:
        asked.append(True)
        return listed(self)

    monkeypatch.setattr(Tokenizer, "vocabulary", vocabulary)
    assert [tokenizer.size for _ in range(5)] == [len(listed(tokenizer))] * 5
    assert asked == [True]


CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_CONFIG = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


@pytest.mark.parametrize(
    ("begin", "end", "want"),
    [
        (None, None, ("<|im_start|>", "<|im_end|>")),
        ("<|endoftext|>", "<|endoftext|>", ("<|endoftext|>", "<|endoftext|>")),
        ("none", None, (None, "<|im_end|>")),
        (None, "none", ("<|im_start|>", None)),
        ("none", "none", (None, None)),
        ("none", "<|endoftext|>", (None, "<|endoftext|>")),
    ],
)
def test_marks_can_be_chosen_and_are_kept_with_the_tokenizer(
    tmp_path: Path, begin: str | None, end: str | None, want: tuple[str | None, str | None]
) -> None:
    folder = saved(tmp_path, byte_level(*CHAT), **CHAT_CONFIG)
    tokenizer = Tokenizer.from_pretrained(folder, begin, end)
    assert marks(tokenizer) == want
    again = Tokenizer.from_json(tokenizer.to_json())
    assert (marks(again), again.begin, again.end) == (want, tokenizer.begin, tokenizer.end)
    ids = tokenizer.encode("the land")
    (piece,) = encode(again, [Document("the land")])
    assert list(piece.tokens) == [*tokenizer.opening, *ids, *tokenizer.closing]
    assert prompt_tokens(again, "the land") == [*tokenizer.opening, *ids]
    (tmp_path / "data_layer").mkdir()
    tokenizer.write(tmp_path / "data_layer")
    asked = load_prompt_tokenizer(str(tmp_path), again)("the land")["input_ids"]
    assert asked == [*tokenizer.opening, *ids]


def test_without_marks_a_question_without_words_still_has_a_token(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(saved(tmp_path, byte_level(*CHAT)), "none", "none")
    assert prompt_tokens(tokenizer, "") == [tokenizer.end_of_text]
    assert tokenizer.marks == ()


@pytest.mark.parametrize("field", ["begin", "end"])
def test_a_mark_that_is_no_token_is_refused_with_those_that_are(tmp_path: Path, field: str) -> None:
    folder = saved(tmp_path, byte_level(*CHAT), **CHAT_CONFIG)
    with pytest.raises(ConfigError, match=rf"tokenizer.{field} <bos>: .*<\|im_start\|>.*or none"):
        Tokenizer.from_pretrained(folder, **{field: "<bos>"})


def test_a_tokenizer_whose_files_name_no_mark_can_be_given_one(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level("<stop>"))
    with pytest.raises(ConfigError, match=r"set tokenizer\.end"):
        Tokenizer.from_pretrained(folder)
    assert marks(Tokenizer.from_pretrained(folder, end="<stop>")) == ("<stop>", "<stop>")
    assert marks(Tokenizer.from_pretrained(folder, end="none")) == (None, None)


def test_marks_are_for_pretrained_tokenizers() -> None:
    with pytest.raises(ValueError, match="`begin` and `end` need `pretrained`"):
        TokenizerSpec(begin="none")
