"""The model with memory: its mixture against the formula, its cache against no cache, itself with
the memory off against the plain model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from actors.measuring.probing import decode_greedily, prompt_tokens
from actors.measuring.voices import VOICES, Voice, predict_everywhere
from actors.pair.speech import SpeechOptions, speak
from actors.pair.tandem_model import TandemModel, load_tandem_model
from actors.wire import ConfigError
from tests.unit.actors.tiny import FAMILIES, one_document, tokens
from tests.unit.actors.tiny_pair import NUM_TOKENS, ROWS, Pair, exported, tandem

NEW = 6
EACH_VOICE = pytest.mark.parametrize("voice", VOICES)
EACH_MEMORY_VOICE = pytest.mark.parametrize("voice", ["help", "memory"])
LENGTHS = (4, 9, 1)  # of the sequences of a padded batch


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def both(request: pytest.FixtureRequest) -> tuple[TandemModel, Any]:
    return tandem(request.param)


@pytest.fixture
def model(both: tuple[TandemModel, Any]) -> TandemModel:
    return both[0]


@pytest.fixture(scope="module")
def llama() -> TandemModel:
    return tandem("llama")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pair") / "export"


@pytest.fixture(scope="module")
def kept(folder: Path) -> tuple[Any, Any]:
    return exported(folder)


@pytest.fixture(scope="module")
def loaded(folder: Path, kept: Any) -> TandemModel:
    return load_tandem_model(str(folder))


def rows() -> list[Tensor]:
    return [tokens(n, num=NUM_TOKENS, seed=n) for n in LENGTHS]


def left_padded() -> dict[str, Tensor]:
    longest = max(LENGTHS)
    ids = torch.zeros(len(LENGTHS), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows()):
        ids[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def generated(model: Any, **kwargs: Any) -> Tensor:
    """New tokens only, always as many."""
    options = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, **kwargs}
    out = model.generate(**options)
    assert isinstance(out, Tensor)
    return out[:, kwargs["input_ids"].shape[1] :]


def by_hand(model: TandemModel, row: Tensor, voice: Voice, steps: int = NEW) -> Tensor:
    """Greedy continuation of one row without a cache, token 0 left out as `min_new_tokens` does."""
    ids = row.unsqueeze(0)
    pair = Pair(model.data_layer, model.memory_layer)
    for _ in range(steps):
        logp = predict_everywhere(pair, voice, ids, one_document(ids)).logp[:, -1]
        ids = torch.cat([ids, logp[:, 1:].argmax(-1, keepdim=True) + 1], dim=1)
    return ids[0, len(row) :]


@torch.no_grad()
def test_the_logits_are_the_log_of_the_mixture(model: TandemModel) -> None:
    ids = tokens(2, 7)
    y = model.memory_layer.read(ids, one_document(ids)).y
    p = model.data_layer(ids, one_document(ids), y).logits_BTV.softmax(-1)
    q = model.memory_layer.predict(y).softmax(-1)
    out = model(ids)
    lam = out.mixing.unsqueeze(-1)
    want = ((1 - lam) * p + lam * q).log()
    torch.testing.assert_close(out.logits[..., :NUM_TOKENS], want, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@EACH_VOICE
def test_a_voice_says_what_the_evaluator_hears(model: TandemModel, voice: Voice) -> None:
    ids = tokens(2, 7)
    heard = predict_everywhere(
        Pair(model.data_layer, model.memory_layer), voice, ids, one_document(ids)
    )
    out = model(ids, voice=voice)
    got = out.logits[..., :NUM_TOKENS].log_softmax(-1)
    torch.testing.assert_close(got, heard.logp, atol=1e-5, rtol=1e-5)
    assert (out.mixing is None) == (heard.mixing is None)
    if heard.mixing is not None:
        torch.testing.assert_close(out.mixing, heard.mixing)


@torch.no_grad()
def test_the_voices_differ(model: TandemModel) -> None:
    ids = tokens(2, 7)
    own, help_, memory = (model(ids, voice=v).logits.softmax(-1)[..., :60] for v in VOICES)
    assert min((own - help_).abs().max(), (help_ - memory).abs().max()) > 1e-2


@EACH_MEMORY_VOICE
def test_rows_beyond_the_tokenizer_are_impossible(model: TandemModel, voice: Voice) -> None:
    logits = model(tokens(1, 5), voice=voice).logits
    assert logits.shape == (1, 5, ROWS)
    assert bool((logits[..., NUM_TOKENS:] == -torch.inf).all())


@EACH_MEMORY_VOICE
@pytest.mark.parametrize("beams", [1, 3])
def test_a_cache_changes_no_token(model: TandemModel, voice: Voice, beams: int) -> None:
    options = {**left_padded(), "voice": voice, "num_beams": beams}
    got, want = (generated(model, **options, use_cache=cached) for cached in (True, False))
    assert torch.equal(got, want)


@EACH_MEMORY_VOICE
def test_a_padded_batch_is_generated_as_each_row_alone(model: TandemModel, voice: Voice) -> None:
    got = generated(model, **left_padded(), voice=voice)
    for index, row in enumerate(rows()):
        assert got[index].tolist() == by_hand(model, row, voice).tolist()


def test_every_beam_of_a_padded_batch_is_found_as_in_each_row_alone(model: TandemModel) -> None:
    beams: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2}
    got = generated(model, **left_padded(), **beams)
    for index, row in enumerate(rows()):
        alone = generated(model, input_ids=row.unsqueeze(0), **beams)
        assert torch.equal(got[2 * index : 2 * index + 2], alone)


@torch.no_grad()
@EACH_MEMORY_VOICE
def test_tokens_fed_piece_by_piece_get_the_logits_of_one_pass(
    model: TandemModel, voice: Voice
) -> None:
    batch = left_padded()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    whole = model(**batch, voice=voice).logits
    cache, pieces = None, []
    for begin, end in ((0, 3), (3, 4), (4, 9)):
        out = model(
            ids[:, begin:end],
            attention_mask=mask[:, :end],
            past_key_values=cache,
            use_cache=True,
            voice=voice,
        )
        cache = out.past_key_values
        pieces.append(out.logits)
    real = mask.bool()
    got = torch.cat(pieces, dim=1)[real]
    torch.testing.assert_close(got, whole[real], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_padding_on_the_right_and_in_the_middle_is_not_seen(model: TandemModel) -> None:
    row = tokens(1, 6, num=NUM_TOKENS)
    holes = torch.tensor([[1, 1, 0, 0, 1, 1, 1, 0, 1, 0]])
    ids = torch.full_like(holes, 7)
    ids[holes.bool()] = row[0]
    want = model(row).logits[0]
    got = model(ids, attention_mask=holes).logits[0, holes[0].bool()]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_follows_right_padding_in_a_cache_is_as_without_padding(model: TandemModel) -> None:
    row = tokens(1, 8, num=NUM_TOKENS)
    first = torch.cat([row[:, :4], torch.zeros(1, 2, dtype=torch.long)], dim=1)
    mask = torch.tensor([[1] * 4 + [0] * 2 + [1] * 4])
    cache = model(first, attention_mask=mask[:, :6], use_cache=True).past_key_values
    got = model(row[:, 4:], attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(got, model(row).logits[:, 4:], atol=1e-4, rtol=1e-4)


@EACH_MEMORY_VOICE
@pytest.mark.parametrize("own_cache", [True, False])
def test_a_conversation_goes_on_in_its_cache(
    llama: TandemModel, voice: Voice, own_cache: bool
) -> None:
    said = tokens(1, 5, num=NUM_TOKENS)
    cache = DynamicCache() if own_cache else None
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "voice": voice}
    for turn in range(3):
        fresh = llama.generate(said, **options, use_cache=False)
        out = llama.generate(said, **options, past_key_values=cache, return_dict_in_generate=True)
        assert out.sequences.tolist() == fresh.tolist()
        cache = out.past_key_values
        said = torch.cat([out.sequences, tokens(1, 3, num=NUM_TOKENS, seed=50 + turn)], dim=1)


@torch.no_grad()
def test_a_conversation_branches_by_copying_its_cache(llama: TandemModel) -> None:
    start = tokens(1, 5, num=NUM_TOKENS)
    cache = llama(start, use_cache=True).past_key_values
    for seed in (1, 2):
        ids = torch.cat([start, tokens(1, 3, num=NUM_TOKENS, seed=seed)], dim=1)
        got = generated(llama, input_ids=ids, past_key_values=copy.deepcopy(cache))
        assert torch.equal(got, generated(llama, input_ids=ids, use_cache=False))


def test_several_samples_continue_one_cache(llama: TandemModel) -> None:
    ids = tokens(1, 6, num=NUM_TOKENS)
    cache = llama(ids[:, :5], use_cache=True).past_key_values
    cache.batch_repeat_interleave(3)
    got = generated(llama, input_ids=ids.repeat(3, 1), past_key_values=cache)
    assert torch.equal(got, generated(llama, input_ids=ids).repeat(3, 1))


def test_rows_are_taken_out_of_a_cache(llama: TandemModel) -> None:
    ids = tokens(3, 6, num=NUM_TOKENS)
    cache = llama(ids[:, :5], use_cache=True).past_key_values
    cache.batch_select_indices(torch.tensor([2, 0]))
    got = generated(llama, input_ids=ids[[2, 0]], past_key_values=cache)
    assert torch.equal(got, generated(llama, input_ids=ids[[2, 0]]))


@torch.no_grad()
@EACH_MEMORY_VOICE
def test_a_cropped_cache_has_forgotten(llama: TandemModel, voice: Voice) -> None:
    ids = tokens(2, 9, num=NUM_TOKENS)
    cache = llama(ids, use_cache=True, voice=voice).past_key_values
    cache.crop(-4)
    other = tokens(2, 3, num=NUM_TOKENS, seed=4)
    got = llama(other, past_key_values=cache, voice=voice).logits
    want = llama(torch.cat([ids[:, :5], other], dim=1), voice=voice).logits[:, 5:]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_guessed_tokens_that_are_taken_back_change_no_token(llama: TandemModel) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS).repeat(1, 3)  # something for the look-up to find
    got = generated(llama, input_ids=ids, prompt_lookup_num_tokens=3)
    assert torch.equal(got, generated(llama, input_ids=ids))


def test_a_prompt_read_in_chunks_is_continued_as_one_read_whole(llama: TandemModel) -> None:
    got = generated(llama, **left_padded(), prefill_chunk_size=2)
    assert torch.equal(got, generated(llama, **left_padded()))


@EACH_VOICE
def test_sampling_depends_on_the_seed_alone(llama: TandemModel, voice: Voice) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS)
    options: dict[str, Any] = {"do_sample": True, "num_return_sequences": 4, "voice": voice}
    runs = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        runs.append(generated(llama, input_ids=ids, use_cache=use_cache, **options))
    assert torch.equal(*runs)
    assert len({tuple(row) for row in runs[0].tolist()}) == 4
    assert voice == "own" or int(runs[0].max()) < NUM_TOKENS


class Collector(BaseStreamer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


@EACH_VOICE
def test_a_streamer_hears_every_token(llama: TandemModel, voice: Voice) -> None:
    heard, ids = Collector(), tokens(1, 4, num=NUM_TOKENS)
    said = generated(llama, input_ids=ids, streamer=heard, voice=voice)
    assert heard.tokens == [*ids[0].tolist(), *said[0].tolist()]
    assert heard.ended


class After(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return input_ids[:, -1] == self.token


def test_a_stopping_criterion_stops(llama: TandemModel) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS)
    said = generated(llama, input_ids=ids)[0].tolist()
    stop = StoppingCriteriaList([After(said[2])])
    got = generated(llama, input_ids=ids, stopping_criteria=stop)[0].tolist()
    assert got == said[: said.index(said[2]) + 1]


def test_the_end_of_text_stops(llama: TandemModel) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS)
    said = generated(llama, input_ids=ids)[0].tolist()
    before = llama.generation_config
    llama.generation_config = GenerationConfig(eos_token_id=said[3], pad_token_id=said[3])
    try:
        got = llama.generate(ids, do_sample=False, max_new_tokens=NEW)[0, 4:].tolist()
    finally:
        llama.generation_config = before
    assert got == said[: said.index(said[3]) + 1]


@torch.no_grad()
@pytest.mark.parametrize("way", ["with", "attribute", "argument"])
def test_with_the_memory_off_the_logits_are_the_plain_models_bit_for_bit(
    both: tuple[TandemModel, Any], way: str
) -> None:
    model, plain = both
    batch = left_padded()
    want = plain(**batch).logits
    assert not torch.equal(model(**batch).logits, want)
    if way == "with":
        with model.memory_off():
            got = model(**batch).logits
    elif way == "attribute":
        model.voice = "own"
        got = model(**batch).logits
        model.voice = "help"
    else:
        got = model(**batch, voice="own").logits
    assert torch.equal(got, want)
    assert model.voice == "help"


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True}])
def test_with_the_memory_off_the_plain_model_generates_what_are_tokens(
    both: tuple[TandemModel, Any], options: dict[str, Any]
) -> None:
    model, plain = both
    options = {
        **left_padded(),
        **options,
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    torch.manual_seed(1)
    want = plain.generate(**options, suppress_tokens=list(range(NUM_TOKENS, ROWS)))
    torch.manual_seed(1)
    with model.memory_off():
        got = model.generate(**options)
    assert torch.equal(got.sequences, want.sequences)
    assert all(torch.equal(*pair) for pair in zip(got.logits, want.logits, strict=True))


def test_the_memory_is_on_again_after_an_error(llama: TandemModel) -> None:
    with pytest.raises(RuntimeError), llama.memory_off():
        raise RuntimeError
    assert llama.voice == "help"


@EACH_VOICE
def test_the_loss_is_the_mean_surprise_at_the_labels(model: TandemModel, voice: Voice) -> None:
    ids = tokens(2, 6, num=NUM_TOKENS)
    labels = ids.clone()
    labels[0, :3] = -100
    out = model(ids, labels=labels, voice=voice)
    logp = out.logits.log_softmax(-1)
    surprises = [
        -logp[b, t - 1, ids[b, t]] for b in range(2) for t in range(1, 6) if labels[b, t] >= 0
    ]
    torch.testing.assert_close(out.loss, torch.stack(surprises).mean())


@torch.no_grad()
@EACH_VOICE
@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4])])
def test_only_the_logits_asked_for_are_made(
    model: TandemModel, voice: Voice, keep: int | Tensor
) -> None:
    ids = tokens(2, 6, num=NUM_TOKENS)
    where = slice(-keep, None) if isinstance(keep, int) else keep
    want = model(ids, voice=voice).logits[:, where]
    got = model(ids, voice=voice, logits_to_keep=keep).logits
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@EACH_VOICE
def test_a_call_returns_a_cache_only_where_it_is_wanted(llama: TandemModel, voice: Voice) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS)
    assert llama(ids, voice=voice, use_cache=False).past_key_values is None
    assert llama(ids, voice=voice).past_key_values.get_seq_length() == 4


def test_hidden_states_and_tuples_are_there_for_who_asks(llama: TandemModel) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS)
    out = llama(ids, output_hidden_states=True)
    assert len(out.hidden_states) == 3
    assert torch.equal(llama(ids, return_dict=False, use_cache=False)[0], out.logits)


def test_gradients_reach_both_layers_where_they_are_wanted() -> None:
    model, _ = tandem("llama")
    model.data_layer.requires_grad_(True)
    model.memory_layer.requires_grad_(True)
    ids = tokens(2, 6, num=NUM_TOKENS)
    model(ids, labels=ids).loss.backward()
    assert model.memory_port.mix.weight.grad is not None
    assert model.memory_layer.values.grad is not None
    assert all(p.grad is not None for p in model.data_layer.model.parameters())


@pytest.mark.parametrize(("first", "then"), [("help", "memory"), ("memory", "help")])
def test_a_cache_of_another_voice_is_refused(llama: TandemModel, first: Any, then: Any) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS)
    cache = llama(ids, voice=first, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=f"filled by the voice {first} .*by {then}"):
        llama(ids, past_key_values=cache, voice=then)


@pytest.mark.parametrize("call", ["forward", "generate"])
def test_a_cache_that_the_memory_filled_is_refused_with_the_memory_off(
    llama: TandemModel, call: str
) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS)
    cache = llama(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"voice help .*by own"):
        (llama if call == "forward" else llama.generate)(ids, past_key_values=cache, voice="own")


def test_a_cache_of_which_the_memory_knows_nothing_is_refused(llama: TandemModel) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS)
    cache = llama(ids, use_cache=True, voice="own").past_key_values
    with pytest.raises(ValueError, match="holds 4 tokens, of which the memory has seen 0"):
        llama(ids, past_key_values=cache)


def test_a_cache_of_fixed_size_is_refused(llama: TandemModel) -> None:
    with pytest.raises(ValueError, match="StaticCache has no room"):
        generated(llama, input_ids=tokens(1, 4), cache_implementation="static")


def test_a_mask_that_does_not_fit_is_refused(llama: TandemModel) -> None:
    ids = tokens(1, 4, num=NUM_TOKENS)
    cache = llama(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"= \(1, 8\), got \(1, 4\)"):
        llama(ids, attention_mask=torch.ones(1, 4), past_key_values=cache)


def test_embeddings_instead_of_tokens_are_refused(llama: TandemModel) -> None:
    with pytest.raises(ValueError, match="the memory reads tokens"):
        llama(None, inputs_embeds=torch.zeros(1, 4, 32))


def test_a_model_with_a_cache_of_its_own_kind_needs_use_cache_off() -> None:
    model, _ = tandem("llama")
    ids = tokens(1, 4, num=NUM_TOKENS)
    want = model(ids).logits
    plain = model.data_layer.model.forward

    def without_cache(input_ids: Tensor, **kwargs: Any) -> Any:
        del kwargs["past_key_values"]
        return plain(input_ids, **kwargs)

    model.data_layer.model.forward = without_cache  # type: ignore[method-assign]
    assert torch.equal(model(ids).logits, want)
    with pytest.raises(ValueError, match="give use_cache=False"):
        generated(model, input_ids=ids)


@pytest.mark.parametrize("way", ["call", "generate", "attribute"])
def test_an_unknown_voice_is_refused(llama: TandemModel, way: str) -> None:
    ids = tokens(1, 4)
    ways: dict[str, Any] = {
        "call": lambda: llama(ids, voice="hlep"),
        "generate": lambda: llama.generate(ids, voice="hlep"),
        "attribute": lambda: setattr(llama, "voice", "hlep"),
    }
    with pytest.raises(ValueError, match="unknown voice 'hlep': expected one of own, help, memory"):
        ways[way]()


def test_a_mistyped_option_is_refused(llama: TandemModel) -> None:
    with pytest.raises(ValueError, match="voise"):
        llama.generate(tokens(1, 4), voise="own")


def test_a_pair_without_its_runs_tokenizer_is_not_saved(llama: TandemModel) -> None:
    with pytest.raises(ConfigError, match="no tokenizer of its run, which an export needs"):
        llama.save("somewhere")


@torch.no_grad()
def test_a_dtype_is_for_the_data_layers_model_alone() -> None:
    model, _ = tandem("llama")
    assert model.to("cpu", torch.bfloat16) is model
    assert model.dtype == torch.bfloat16
    assert model.memory_layer.values.dtype == torch.float32
    ids = tokens(1, 6, num=NUM_TOKENS)
    want = tandem("llama")[0](ids).logits[..., :NUM_TOKENS]
    got = model.bfloat16()(ids).logits[..., :NUM_TOKENS]
    assert got.dtype == torch.float32
    assert float((got.exp() - want.exp()).abs().max()) < 0.05
    assert generated(model, input_ids=ids).shape == (1, NEW)
    with model.memory_off():
        assert model(ids).logits.dtype == torch.bfloat16
    assert model.half().dtype == torch.float16


def test_its_name_says_what_it_is(llama: TandemModel) -> None:
    said = repr(llama)
    assert "LlamaForCausalLM" in said
    assert "64 slots" in said
    assert "after layers 0, 1; voice help, cpu, torch.float32" in said


def test_a_loaded_model_is_the_exported_one(loaded: TandemModel, kept: Any) -> None:
    ids = tokens(2, 9)
    pair, _ = kept
    got, want = loaded(ids).logits, predict_everywhere(pair, "help", ids, one_document(ids)).logp
    torch.testing.assert_close(got, want)
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.data_layer.parameters())
    assert not any(p.requires_grad for p in loaded.memory_layer.parameters())


def test_a_loaded_model_with_memory_off_is_what_transformers_loads(
    loaded: TandemModel, folder: Path
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder / "data_layer", local_files_only=True)
    batch = left_padded()
    with loaded.memory_off(), torch.no_grad():
        for keep in (0, 1):
            want = plain(**batch, logits_to_keep=keep).logits
            assert torch.equal(loaded(**batch, logits_to_keep=keep).logits, want)
        got = loaded.generate(**batch, max_new_tokens=NEW, do_sample=False)
    assert torch.equal(got, plain.generate(**batch, max_new_tokens=NEW, do_sample=False))


def test_a_loaded_model_knows_its_special_tokens(loaded: TandemModel, kept: Any) -> None:
    mark = kept[1].end_of_text
    for holder in (loaded.config, loaded.generation_config, loaded.tokenizer):
        assert holder.bos_token_id == holder.eos_token_id == holder.pad_token_id == mark
    assert loaded.config.vocab_size == kept[1].size
    assert loaded.can_generate()


@EACH_VOICE
def test_it_answers_what_tandem_ask_answers(loaded: TandemModel, kept: Any, voice: Voice) -> None:
    pair, tokenizer = kept
    asked = ["The capital of Avaria is", "Ships reach", "Those who rule the whole Gondar live in"]
    prompts = [prompt_tokens(tokenizer, prompt) for prompt in asked]
    told = decode_greedily(pair, voice, prompts, tokenizer.end_of_text, max_tokens=12)
    want = [tokenizer.decode(t.tokens).strip() for t in told]
    assert loaded.ask(asked, voice, max_new_tokens=12) == want
    assert loaded.ask(asked[0], voice, max_length=len(prompts[0]) + 12) == want[0]


@pytest.fixture
def prefers_chats(loaded: TandemModel) -> Iterator[TandemModel]:
    """The model with a generation config like a chat model's: turns have an end of their own."""
    before = loaded.generation_config
    loaded.generation_config = GenerationConfig(
        eos_token_id=5, do_sample=True, temperature=3.0, repetition_penalty=3.0
    )
    yield loaded
    loaded.generation_config = before


@EACH_VOICE
def test_an_answer_is_the_likeliest_whatever_the_generation_config_prefers(
    prefers_chats: TandemModel, kept: Any, voice: Voice
) -> None:
    pair, tokenizer = kept
    prompt = "The capital of Avaria is"
    (told,) = decode_greedily(
        pair, voice, [prompt_tokens(tokenizer, prompt)], tokenizer.end_of_text, max_tokens=12
    )
    assert 5 not in told.tokens
    assert prefers_chats.ask(prompt, voice, max_new_tokens=12) == (
        tokenizer.decode(told.tokens).strip()
    )
    said = speak(prefers_chats, [prompt_tokens(tokenizer, prompt)], SpeechOptions(voice, 12))
    assert list(said[0].tokens) == list(told.tokens)


@EACH_MEMORY_VOICE
def test_a_document_ends_what_is_generated_where_the_models_files_name_another_end(
    prefers_chats: TandemModel, kept: Any, voice: Voice
) -> None:
    asked = prefers_chats.prompt_inputs(["The capital of Avaria is"])
    end = kept[1].end
    said = prefers_chats.generate(
        **asked,
        voice=voice,
        do_sample=False,
        max_new_tokens=8,
        logits_processor=LogitsProcessorList([Always(end, after=asked["input_ids"].shape[1] + 2)]),
    )
    assert said[0, asked["input_ids"].shape[1] :].tolist()[2:] == [end]


class Always(LogitsProcessor):
    """Makes one token the likeliest from a length on."""

    def __init__(self, token: int, after: int) -> None:
        self._token, self._after = token, after

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] >= self._after:
            scores[:, self._token] = scores.max() + 1
        return scores


def test_several_answers_to_one_question_are_a_list(loaded: TandemModel) -> None:
    answers = loaded.ask("Ships", num_beams=2, num_return_sequences=2, max_new_tokens=4)
    assert isinstance(answers, list)
    assert len(answers) == 2


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished export there"):
        load_tandem_model(str(tmp_path))
