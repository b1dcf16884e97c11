"""A real pretrained model, SmolLM2-135M, out of a package: it loads as it is, and what fits it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from actors.corpus.corpus import build_tokenizer
from actors.corpus.general_text import shown_general_text
from actors.layers.batch import to_batch
from actors.layers.pair import Pair
from actors.measuring.heldout import hidden_at
from actors.pair.tandem_model import load_tandem_model
from actors.sources.chats import read_chat
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.weights.pair_export import export_pair
from benchmarks.real_model import MissingModelError, default_cache, real_model
from jobs.check.fit_report import fit_report
from jobs.harness.options import TaskOptions
from jobs.harness.tasks import evaluated
from jobs.init_model import Model, model_config, model_values
from orchestrator.settings.config import Config
from tests.integration.tiny import write_corpora
from tests.unit.actors.chats import TALK
from tests.unit.jobs.harness.local_tasks import write_tasks

pytestmark = [pytest.mark.real, pytest.mark.long]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config that `tandem init --model` writes for it, with facts."""
    try:
        model = real_model(default_cache())
    except MissingModelError as err:
        pytest.skip(str(err))
    folder: Path = tmp_path_factory.mktemp("real")
    write_corpora(folder)
    paths, templates = [str(folder / "facts.jsonl")], str(folder / "templates.json")
    values = model_values(Model.at(str(model)), "facts", paths, templates)
    return model_config(values | {"evaluation": {"general_windows": 4}})


def test_nothing_in_its_config_damages_it(config: Config) -> None:
    fitted, warnings = fit_report(config)
    assert warnings == []
    assert fitted["data.layer.read_layers"] == [10, 20]
    assert (config.tokenizer.begin, config.tokenizer.end) == ("<|endoftext|>", "<|endoftext|>")


@torch.no_grad()
def test_its_loss_on_general_text_is_that_of_the_plain_model(config: Config) -> None:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    tokenizer = build_tokenizer(config)
    windows = shown_general_text(config, tokenizer)
    assert windows is not None
    batch = to_batch(windows, torch.device("cpu"))
    data = build_data_layer(config, tokenizer, torch.device("cpu")).eval()
    ours = F.cross_entropy(data.logits_at(hidden_at(data, batch)), batch.targets_N)
    plain = AutoModelForCausalLM.from_pretrained(config.data.layer.pretrained, dtype=torch.float32)
    losses = []
    for row in range(len(windows)):
        for segment in sorted({*windows.segments_NT[row].tolist()} - {-1}):
            ids = windows.tokens_NT[row][windows.segments_NT[row] == segment]
            if len(ids) > 1:
                tokens = torch.from_numpy(ids).long()[None]
                logits = plain(tokens).logits[0, :-1]
                losses.append(F.cross_entropy(logits, tokens[0, 1:], reduction="none"))
    assert float(ours) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
    assert 2.5 < float(ours) < 5.5  # it reads English


def test_in_the_harness_the_data_layer_alone_is_the_real_model_to_the_last_digit(
    config: Config, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(config)
    device = torch.device("cpu")
    data = build_data_layer(config, tokenizer, device).eval()
    memory = build_memory_layer(config, tokenizer, data.vocab_rows, device)
    with torch.no_grad():
        memory.values.normal_()  # what an untrained memory says counts
        data.port.mix.bias.zero_()
    export_pair(config, tokenizer, Pair(data, memory.requires_grad_(False)), str(tmp_path / "pair"))
    options = TaskOptions(
        ("capitals_choose", "capitals_text"),
        str(write_tasks(tmp_path, 3)),
        batch_size=2,
        base=config.data.layer.pretrained,
    )
    model = load_tandem_model(str(tmp_path / "pair"))
    figures, _ = evaluated(str(tmp_path / "pair"), model, options)
    assert [figure.task for figure in figures] == ["capitals_choose", "capitals_text"]
    for figure in figures:
        assert figure.values["own"] == figure.values["base"], figure
    bits = figures[1].values
    assert bits["help"] != bits["own"] != bits["memory"]


def test_chats_are_written_by_its_own_template_and_its_answers_are_learned(config: Config) -> None:
    from transformers import AutoTokenizer

    tokenizer = build_tokenizer(config)
    ((piece,),) = tokenizer.chat.encode([read_chat(TALK, None, str)])
    theirs = AutoTokenizer.from_pretrained(config.tokenizer.pretrained)
    assert piece.tokens_T.tolist() == theirs.apply_chat_template(TALK)["input_ids"]
    learned = tokenizer.decode(piece.tokens_T[piece.learn_T].tolist())
    assert learned == "Korvik.<|im_end|>\nDastan is.<|im_end|>\n"
