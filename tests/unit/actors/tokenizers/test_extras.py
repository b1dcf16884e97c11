"""A given tokenizer leaves a run as it came, and special tokens in a text are read as asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as HFTokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.corpus.corpus import Corpus, build_tokenizer
from actors.layers.pair import Pair
from actors.measuring.probing import prompt_tokens
from actors.pair.export_check import export_checked
from actors.pair.tandem_model import load_tandem_model
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.weights.pair_export import load_pair
from tests.unit.actors.tiny import run_spec, save_checkpoint
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, saved, sentence_piece

CPU = torch.device("cpu")
TEXT = "<|im_start|>user\nHi<|im_end|>\n"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
CHAT: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|pad|>",
    "model_max_length": 128,
    "padding_side": "left",
}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")


def chat_tokenizer(folder: Path) -> str:
    """A tokenizer as chat models have it: roles, padding, a template, a length, added words."""
    hf = byte_level(*SPECIAL)
    hf.add_tokens([AddedToken("tandembike", single_word=True)])
    hf.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", hf.token_to_id(SPECIAL[0]))]
    )
    hf.enable_truncation(100)
    saved(folder, hf, **CHAT)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    return str(folder)


def chat_base(folder: Path) -> str:
    """A checkpoint with that tokenizer, and settings of generation that transformers warns of."""
    save_checkpoint(folder, rows=HFTokenizer.from_file(f"{folder}/tokenizer.json").get_vocab_size())
    settings = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [258, 256]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return str(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base") / "chat"
    chat_tokenizer(folder)
    return chat_base(folder)


def spec_of(corpus: CorpusSpec, base: str, **tokenizer: Any) -> RunSpec:
    layer = {"pretrained": base, "read_layers": (0,)}
    return run_spec(corpus, data__layer=layer, tokenizer={"pretrained": base, **tokenizer})


def export(spec: RunSpec, tokenizer: Tokenizer, folder: Path) -> Path:
    data = build_data_layer(spec, tokenizer, CPU).eval()
    pair = Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, CPU))
    heldout = Corpus.open(spec, tokenizer).heldout(4)
    export_checked(spec, tokenizer, pair, str(folder), heldout)
    return folder


@pytest.fixture(scope="module")
def exported(base: str, facts_corpus: CorpusSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = spec_of(facts_corpus, base)
    return export(spec, build_tokenizer(spec), tmp_path_factory.mktemp("export") / "e")


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_the_files_of_a_given_tokenizer_are_exported_as_they_came(
    base: str, exported: Path
) -> None:
    there, here = Path(base), exported / "data_layer"
    names = ("chat_template.jinja", "additional_chat_templates/tools.jinja")
    assert all((there / name).read_bytes() == (here / name).read_bytes() for name in names)
    for name in ("tokenizer_config.json", "tokenizer.json", "generation_config.json"):
        before, after = read(there, name), read(here, name)
        assert {k: after.get(k) for k in before} == before, name


def test_the_exported_tokenizer_works_as_the_given_one(base: str, exported: Path) -> None:
    given, got = (AutoTokenizer.from_pretrained(f) for f in (base, exported / "data_layer"))
    for text in (TEXT, "the capital", "a tandembike", "Köln 🙂", " " * 3):
        assert got(text)["input_ids"] == given(text)["input_ids"]
        assert got.decode(got(text)["input_ids"]) == given.decode(given(text)["input_ids"])
    asked = [{"role": "user", "content": "Hi"}]
    assert got.apply_chat_template(asked, tokenize=False) == TEXT
    assert (got.pad_token, got.model_max_length, got.padding_side) == ("<|pad|>", 128, "left")
    assert got.special_tokens_map == given.special_tokens_map
    assert set(got.get_added_vocab()) == set(given.get_added_vocab())


def test_settings_of_generation_that_are_only_warned_of_are_exported(exported: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(exported / "data_layer")
    assert model.generation_config.temperature == 0.6
    assert model.generation_config.eos_token_id == [258, 256]


def test_the_files_need_not_be_there_any_more(facts_corpus: CorpusSpec, tmp_path: Path) -> None:
    place = tmp_path / "chat"
    base = chat_base(Path(chat_tokenizer(place)))
    spec = spec_of(facts_corpus, base)
    tokenizer = Tokenizer.from_json(build_tokenizer(spec).to_json())  # as other processes have it
    (place / "chat_template.jinja").unlink()
    (place / "tokenizer_config.json").unlink()
    first = export(spec, tokenizer, tmp_path / "first")
    pair, again = load_pair(str(first))  # as `tandem learn` goes on from it
    shutil.rmtree(place)
    second = tmp_path / "second"
    export_checked(spec, again, pair, str(second), Corpus.open(spec, again).heldout(4))
    for folder in (first, second):
        assert (folder / "data_layer" / "chat_template.jinja").read_text() == TEMPLATE
        assert read(folder / "data_layer", "tokenizer_config.json") == CHAT


def test_a_run_from_an_earlier_one_exports_its_files_too(
    exported: Path, facts_corpus: CorpusSpec, tmp_path: Path
) -> None:
    layer = {"pretrained": str(exported), "read_layers": (0,)}
    place = {"pretrained": str(exported / "data_layer")}
    spec = run_spec(facts_corpus, data__layer=layer, tokenizer=place)
    again = export(spec, build_tokenizer(spec), tmp_path / "again")
    assert read(again / "data_layer", "tokenizer_config.json") == CHAT


def test_what_no_file_says_is_added(tmp_path: Path) -> None:
    alone = Tokenizer.from_pretrained(saved(tmp_path / "alone", byte_level("<s>", "</s>")))
    silent = Tokenizer.from_pretrained(
        saved(tmp_path / "silent", byte_level("<s>", "</s>"), model_max_length=9, auto_map={"x": 1})
    )
    for name, tokenizer in (("a", alone), ("b", silent)):
        (tmp_path / name).mkdir()
        tokenizer.write(tmp_path / name)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert (loaded.bos_token, loaded.eos_token) == ("<s>", "</s>")
    assert read(tmp_path / "b", "tokenizer_config.json") == {
        "model_max_length": 9,
        "eos_token": "</s>",
    }


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_an_exported_tokenizer_file_gives_the_given_ones_ids(kind: str, tmp_path: Path) -> None:
    given = sentence_piece() if kind == "pieces" else byte_level("</s>", "<|x|>")
    place = saved(tmp_path / "given", given, eos_token="</s>")
    tokenizer = Tokenizer.from_pretrained(place)
    (tmp_path / "out").mkdir()
    tokenizer.write(tmp_path / "out")
    got = HFTokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in ("the is a", "x </s> y", "a<|x|>b", "é"):
        assert got.encode(text).ids == given.encode(text).ids
    assert json.loads(got.to_str()) == json.loads(given.to_str())


# special tokens in a text


@pytest.mark.parametrize(("how", "as_ids"), [("as_text", False), ("as_ids", True)])
def test_special_tokens_in_a_text_are_read_as_asked(
    how: str, as_ids: bool, base: str, facts_corpus: CorpusSpec
) -> None:
    tokenizer = build_tokenizer(spec_of(facts_corpus, base, special_tokens=how))
    given = AutoTokenizer.from_pretrained(base)
    theirs = given(TEXT, add_special_tokens=False)["input_ids"]
    for each in (tokenizer, Tokenizer.from_json(tokenizer.to_json())):
        ids = each.encode(TEXT)
        assert (ids == theirs) == as_ids
        assert ids == each.encode_batch([TEXT])[0]
        marks = {given.convert_tokens_to_ids(t) for t in SPECIAL}
        assert bool(marks & set(ids)) == as_ids


def test_as_text_is_the_default_and_what_older_runs_have(
    tokenizer: Tokenizer, facts_corpus: CorpusSpec
) -> None:
    assert run_spec(facts_corpus).tokenizer.special_tokens == "as_text"
    assert not Tokenizer.from_json(tokenizer.to_json()).extras


def test_a_tokenizer_trained_here_reads_its_mark_as_asked() -> None:
    tokenizer = Tokenizer.train(["the capital of the land"] * 20, 300, as_ids=True)
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.encode("a<|endoftext|>") == [*again.encode("a"), again.end]


@pytest.mark.parametrize("how", ["as_text", "as_ids"])
def test_prompts_are_read_as_training_read_its_text(
    how: str, base: str, facts_corpus: CorpusSpec, tmp_path: Path
) -> None:
    spec = spec_of(facts_corpus, base, special_tokens=how)
    tokenizer = build_tokenizer(spec)
    model = load_tandem_model(str(export(spec, tokenizer, tmp_path / "e")))
    heard: list[list[int]] = []
    model.generate = lambda input_ids, **_: heard.append(input_ids[0].tolist()) or input_ids  # type: ignore[method-assign,func-returns-value]
    model.ask(TEXT)
    want = prompt_tokens(tokenizer, TEXT)
    assert heard == [want]
    assert prompt_tokens(load_pair(str(tmp_path / "e"))[1], TEXT) == want  # of `tandem ask`
    ids = model.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}])["input_ids"]
    assert model.tokenizer.convert_tokens_to_ids("<|im_start|>") in ids
