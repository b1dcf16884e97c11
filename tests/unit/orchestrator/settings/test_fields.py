"""What the fields of a config say about themselves, and what is derived from it."""

from __future__ import annotations

from actors.settings.fields import (
    Mark,
    OnlyWith,
    PathTo,
    marked_keys,
    meaning,
    only_with,
    settings_of,
)
from actors.settings.fitted import FITTED
from actors.settings.run import RunSpec
from orchestrator.settings.config import Config, dotted_keys
from orchestrator.settings.config_paths import path_settings

ALL = list(settings_of(Config, entries=True))


def keys_with(mark: Mark) -> set[str]:
    return {setting.key for setting in settings_of(Config) if mark in setting.marks}


def below(*prefixes: str) -> set[str]:
    """Known keys that are one of these, or in a section of that name (it ends with a dot)."""
    found = {key for key in dotted_keys() for p in prefixes if key == p or key.startswith(p)}
    assert all(any(key.startswith(p) for key in found) for p in prefixes)
    return found


def test_every_field_says_what_it_means() -> None:
    assert [s.key for s in ALL if len((s.field.description or "").split()) < 3] == []


def test_every_section_says_what_it_is() -> None:
    assert [s.section.__name__ for s in ALL if not s.section.__dict__.get("__doc__")] == []


def test_a_field_of_a_list_is_a_setting_of_every_entry() -> None:
    assert "corpus.sources.*.weight" in {s.key for s in ALL}
    assert "corpus.sources.*.weight" not in dotted_keys()


def test_a_resume_may_change_what_it_always_could() -> None:
    assert keys_with(Mark.RESUMABLE) == below(
        "deadlines.", "ray.", "checkpoints.", "recovery.", "evaluation.", "data.workers.",
        "memory.workers.", "data.accumulate", "memory.accumulate", "exchange.catchup_intervals",
        "profile", "storage", "trackers.", "logit_tokens",
    )  # fmt: skip


def test_a_search_sets_for_each_trial_what_it_always_did() -> None:
    assert keys_with(Mark.SET_BY_SEARCH) == below(
        "name", "storage", "seed", "ray.", "trackers.", "profile"
    )


def test_a_running_pair_can_be_given_what_it_always_could() -> None:
    optimizer = ("lr", "betas", "weight_decay", "clip_norm")
    assert keys_with(Mark.PERTURBABLE) == below(
        "losses.", "mix.", "data.help_frac", "memory.value_lr", "memory.value_clip",
        *(f"{group}.optimizer.{name}" for group in ("data", "memory") for name in optimizer),
    )  # fmt: skip


def test_rarely_changed_are_those_that_always_were() -> None:
    assert keys_with(Mark.ADVANCED) == below(
        "deadlines.", "corpus.block_bytes", "corpus.shuffle_blocks", "data.optimizer.betas",
        "memory.optimizer.betas", "memory.value_clip", "memory.layer.key_dim",
        "memory.layer.conv_dilations", "memory.layer.conv_taps", "memory.layer.attention_heads",
    )  # fmt: skip


def test_paths_are_those_that_always_were_and_all_are_the_trainers() -> None:
    assert path_settings() == {
        "corpus.paths": PathTo.CORPUS,
        "corpus.sources.*.paths": PathTo.CORPUS,
        "corpus.templates": PathTo.TEMPLATES,
        "corpus.spool": PathTo.SPOOL,
        "memory.layer.start_from": PathTo.RUN,
        "tokenizer.pretrained": PathTo.TOKENIZER,
        "data.layer.pretrained": PathTo.MODEL,
        "evaluation.general_text": PathTo.GENERAL,
        "teach.lessons": PathTo.LESSONS,
        "teach.exam": PathTo.LESSONS,
        "teach.told": PathTo.LESSONS,
        "teach.own_text": PathTo.LESSONS,
        "tokenizer.chat_template": PathTo.CHAT_TEMPLATE,
    }
    hub = {key for key, path_to in path_settings().items() if path_to.may_be_on_hub}
    assert hub == {"tokenizer.pretrained", "data.layer.pretrained"}
    assert path_settings().keys() == {s.key for s in ALL if s.path_to}


def test_settings_that_mean_something_only_beside_another_name_it_and_its_value() -> None:
    found: dict[OnlyWith, set[str]] = {}
    for setting in ALL:
        if where := only_with(setting.field):
            found.setdefault(where, set()).add(setting.key)
    assert found == {
        OnlyWith("corpus.kind", "facts"): {
            "corpus.templates", "corpus.relations", "corpus.max_facts", "corpus.heldout_lemmas",
            "corpus.loss_on", "evaluation.probes", "evaluation.final_probes",
        },
        OnlyWith("corpus.kind", "text"): {"corpus.heldout_frac", "corpus.block_bytes"},
        OnlyWith("encoder", "conv"): {
            f"memory.layer.{name}"
            for name in ("conv_dilations", "conv_taps", "attention_heads", "tie_embeddings")
        },
        OnlyWith("encoder", "frozen_copy"): {"memory.layer.copy_layers"},
        OnlyWith("addresses", "product_keys"): {
            f"memory.layer.{name}" for name in ("encoder", "gate", "key_dim", "topk")
        },
        OnlyWith("addresses", "ngrams"): {"memory.layer.ngram_tokens"},
        OnlyWith("data.layer.train", "lora"): {
            f"data.layer.lora.{name}" for name in ("r", "alpha", "dropout", "targets", "export")
        },
        OnlyWith("schedule", "wsd"): {"data.optimizer.decay_frac", "memory.optimizer.decay_frac"},
        OnlyWith("exchange.mode", "async"): {"exchange.staleness"},
    }  # fmt: skip


def test_the_other_setting_exists_and_may_have_that_value() -> None:
    known = {s.key: s.field for s in ALL}
    for setting in ALL:
        if where := only_with(setting.field):
            beside = f"{setting.key.rpartition('.')[0]}.{where.key}"
            assert where.value in str(known.get(where.key, known.get(beside))), setting.key


def test_people_are_told_of_a_whole_section_by_its_name() -> None:
    told = list(marked_keys(Config, Mark.PERTURBABLE))
    assert {"losses", "mix", "data.help_frac", "data.optimizer.lr"} <= set(told)
    assert keys_with(Mark.PERTURBABLE) == {
        key for key in dotted_keys() if any(f"{key}.".startswith(f"{t}.") for t in told)
    }


def test_a_meaning_says_first_where_the_setting_counts() -> None:
    relations = RunSpec.model_fields["corpus"].annotation.model_fields["relations"]  # type: ignore
    assert meaning(relations) == "Only with `corpus.kind: facts`. Relations to use; unset: all."


def test_settings_that_fit_themselves_to_a_pretrained_model_are_those_that_get_a_value() -> None:
    assert keys_with(Mark.FITTED) == set(FITTED)
