"""Reads a search from its file and checks everything that can be wrong with it, before anything
starts. Called by `jobs.tune.tune`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from actors.settings.fields import Mark, marked_keys, settings_of
from actors.wire import ConfigError
from jobs.tune.space import extremes
from jobs.tune.spec import REFLECTION, VOICES, Search, SearchSpec, vary
from orchestrator.settings.config import Config, explain, load_config, nearest_key
from orchestrator.settings.config_paths import anchor_paths, beside, folder_of, url_under
from orchestrator.settings.dotted import nest, pick
from orchestrator.settings.yaml_file import read_yaml


def load_search(path: str, overrides: Sequence[str] = ()) -> Search:
    """Reads a search and checks everything that can be checked before it starts.

    Args:
        path: YAML file; any fsspec URL.
        overrides: `key=value` of the search's own settings, e.g. trials=8.

    Raises:
        ConfigError: one line per mistake.
    """
    values, folder = read_yaml(path, overrides), folder_of(path)
    _anchor_space(values.get("space"), folder)
    try:
        spec = SearchSpec(**values)
    except ValidationError as err:
        lines = explain(err, _nearest)
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from err
    _refuse_unknown(path, [*spec.space, *spec.set])
    base = vary(load_config(beside(folder, spec.base)), _anchored(spec.set, folder))
    search = Search(spec, base, url_under(spec.storage, spec.name))
    _check(path, search)
    return search


def _anchor_space(space: Any, folder: str) -> None:
    """Makes the relative paths that a space offers those from the search's file, in place."""
    for name, domain in space.items() if isinstance(space, dict) else ():
        for kind, offered in domain.items() if isinstance(domain, dict) else ():
            if isinstance(offered, list):
                domain[kind] = [_anchored({name: value}, folder)[name] for value in offered]


def _anchored(values: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Values by dotted name, their relative paths made those from the search's file."""
    anchored = {}
    for key, value in values.items():
        nested = nest(key, value)
        anchor_paths(nested, folder)
        anchored[key] = pick(nested, key)
    return anchored


def _nearest(unknown: str) -> str | None:
    near = difflib.get_close_matches(unknown, list(SearchSpec.model_fields), n=1, cutoff=0.5)
    return near[0] if near else None


def _refuse_unknown(path: str, names: Sequence[str]) -> None:
    known = {setting.key: setting.marks for setting in settings_of(Config)}
    for name in names:
        if name not in known:
            near = nearest_key(name)
            hint = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"{path}: unknown key {name}{hint}")
    for name in names:
        if Mark.SET_BY_SEARCH in known[name]:
            raise ConfigError(f"{path}: {name} can't be set here: the search sets it itself")


def _check(path: str, search: Search) -> None:
    spec = search.spec
    if not search.base.evaluation.probes or search.base.corpus.kind != "facts":
        for goal in spec.goals:
            if goal.figure in VOICES:
                raise ConfigError(
                    f"{path}: objective {goal.figure} needs a corpus of facts and "
                    "evaluation.probes above 0; this one gives no probes"
                )
    kinds = {"grid" if domain.grid else "sampled" for domain in spec.space.values()}
    if spec.algorithm == "grid" and kinds != {"grid"}:
        raise ConfigError(f"{path}: algorithm grid needs every domain of space to be a grid")
    if spec.algorithm != "grid" and "grid" in kinds:
        raise ConfigError(
            f"{path}: algorithm {spec.algorithm} can't follow a grid; write choice instead, or "
            "algorithm: grid"
        )
    _check_schedule(path, search)
    for name, point in extremes(spec.space, spec.sums):
        try:
            search.config(point)
        except ConfigError as err:
            value = search.values(point)[name]
            raise ConfigError(f"{path}: with {name}={value!r}: {err}") from err


def _check_schedule(path: str, search: Search) -> None:
    """What a scheduler needs of the runs, and the objectives of their evaluations."""
    spec, base = search.spec, search.base
    every = base.evaluation.every
    if spec.scheduler != "none" and not 0 < every < base.intervals:
        raise ConfigError(
            f"{path}: scheduler {spec.scheduler} compares trials while they run: set "
            f"evaluation.every (now {every}) between 0 and intervals ({base.intervals}), or "
            "scheduler: none"
        )
    if spec.scheduler != "none" and spec.seeds > 1:
        raise ConfigError(
            f"{path}: seeds {spec.seeds} needs scheduler: none; a trial of several runs has no "
            f"figures for {spec.scheduler} before the last of them"
        )
    if not every and any(goal.figure == REFLECTION for goal in spec.goals):
        raise ConfigError(
            f"{path}: objective {REFLECTION} compares evaluations with each other: set "
            "evaluation.every above 0"
        )
    if spec.scheduler == "pbt":
        _check_population(path, search)


def _check_population(path: str, search: Search) -> None:
    spec, base = search.spec, search.base
    if spec.algorithm == "tpe":
        raise ConfigError(
            f"{path}: scheduler pbt moves the points itself: set algorithm: random or grid"
        )
    if search.num_trials < 2:
        raise ConfigError(f"{path}: scheduler pbt needs trials of at least 2")
    saves, every = base.checkpoints.every, base.evaluation.every
    if not saves or every % saves:
        raise ConfigError(
            f"{path}: scheduler pbt hands checkpoints on where trials are compared: evaluation."
            f"every ({every}) must be a multiple of checkpoints.every ({saves})"
        )
    perturbable = {s.key for s in settings_of(Config) if Mark.PERTURBABLE in s.marks}
    for name, domain in spec.space.items():
        if name not in perturbable:
            raise ConfigError(
                f"{path}: scheduler pbt can't change {name} in a running pair; it can change "
                f"{', '.join(marked_keys(Config, Mark.PERTURBABLE))}"
            )
        if name == "losses.sync" and 0 in domain.ends and set(domain.ends) != {0}:
            raise ConfigError(
                f"{path}: scheduler pbt: losses.sync must stay above 0, or be 0 in every trial: "
                "with it a checkpoint holds one more teacher"
            )
