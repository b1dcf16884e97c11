"""`tandem learn MODEL`: makes a memory for a model that has none, the model frozen.

The memory and its port train as in any run, in this process, by the config that `tandem init
--model` writes, so that the result is a run like any other: it can be asked, evaluated, loaded,
resumed, and learn again.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.tokenizers.pretrained_tokenizer import looks_local
from actors.wire import ConfigError
from jobs.init_model import Model, model_config, model_values
from jobs.learn.new_corpus import anchored, columns_in, fitting_block_bytes, fitting_steps
from jobs.train import print_summary
from orchestrator.console import Console
from orchestrator.run import RunResult, train
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import RunStatus, is_finished
from orchestrator.run_dir.status import look
from orchestrator.settings.config import Config, dotted_keys
from orchestrator.settings.file_names import CONFIG, EXPORT, EXPORT_MARKER, REPORT

MODEL_FILES = ("config.json", "adapter_config.json", "*.safetensors", "*.gguf", "*.bin")
STORAGE = "runs"
NAMED = "--out {}"
HERE = {"data.layer.pretrained", "tokenizer.pretrained", "corpus.paths", "corpus.templates"}


@dataclass(frozen=True)
class FirstOptions:
    """What is to be learned; None: the default.

    Attributes:
        facts, text: path of the corpus, one of them.
        templates: wordings of the facts.
        out: directory of the run.
        steps: of the memory.
        seed: of the run.
    """

    facts: str | None = None
    text: str | None = None
    templates: str | None = None
    out: str | None = None
    steps: int | None = None
    seed: int | None = None


def is_model(place: str) -> bool:
    """Whether a place is a model and no run: a folder with a model's files, or a name as on the
    Hugging Face hub where there is no such folder.
    """
    if _is_run(RunDir(place)):
        return False
    folder = Path(place).expanduser()
    if folder.is_dir():
        return any(next(folder.glob(pattern), None) is not None for pattern in MODEL_FILES)
    is_hub_name = "://" not in place and place.count("/") == 1 and not looks_local(place)
    return folder.is_file() or (is_hub_name and not folder.parent.exists())


def _is_run(run_dir: RunDir) -> bool:
    files = (CONFIG, EXPORT_MARKER, f"{EXPORT}/{EXPORT_MARKER}")
    return any(run_dir.exists(name) for name in files)


def refuse_neither(place: str) -> None:
    """Raises: ConfigError: a place that is no model is no run either."""
    run_dir = RunDir(place)
    if not _is_run(run_dir):
        near = run_dir.near() or "give a run directory, a model's folder, or its name on the hub"
        raise ConfigError(
            f"{run_dir.url}: neither a run ({CONFIG} is missing) nor a model ({MODEL_FILES[0]} is "
            f"missing); {near}"
        )


def learn_model(
    place: str, options: FirstOptions, console: Console, as_json: bool
) -> dict[str, Any]:
    """Makes the memory, prints and returns the run's summary.

    Raises:
        ConfigError: no model there, or no tokenizer; a missing or malformed corpus; facts without
            wordings; the result exists already.
    """
    with _settings_elsewhere(place, options):
        config = first_config(place, options)
        _refuse_existing(RunDir(config.run_url))
        _announce(place, config, console, as_json)
        result = train(config, Console(quiet=True) if as_json else console, in_process=True)
    _show(config, result, console, as_json)
    return result.summary


def _announce(place: str, config: Config, console: Console, as_json: bool) -> None:
    if not as_json:
        several = "s" if config.intervals > 1 else ""
        console.say(
            f"a memory for {place}, which stays as it is: {config.intervals} interval{several} of "
            f"{config.memory.steps_per_interval} steps of the memory and "
            f"{config.data.steps_per_interval} of its port; in {config.run_url}"
        )


@contextmanager
def _settings_elsewhere(place: str, options: FirstOptions) -> Iterator[None]:
    """Adds to a refusal that advises a setting how to set it: this command has no settings."""
    try:
        yield
    except ConfigError as err:
        known = set(dotted_keys()) - HERE
        if not known & set(re.findall(r"[a-z_]+(?:\.[a-z_]+)+", str(err))):
            raise
        kind = "text" if options.facts is None else "facts"
        raise ConfigError(
            f"{err}\n(tandem learn sets none of a config's values: write a config by "
            f"`tandem init FILE.yaml --model {shlex.quote(place)} --kind {kind}`, set it there, "
            "and train by `tandem train FILE.yaml --in-process`)"
        ) from err


def _refuse_existing(out: RunDir) -> None:
    """Raises: ConfigError where there is a result, or one that was interrupted."""
    if not out.exists():
        return
    seen = look(out)
    if seen.state == RunStatus.RUNNING:
        raise ConfigError(f"{out.url}: it is being learned ({seen.driver}); choose another --out")
    if out.exists(CONFIG) and not is_finished(seen.state):
        raise ConfigError(
            f"{out.url}: this learning was interrupted; go on with: {seen.resume_command(out)}, or "
            "choose another --out"
        )
    raise ConfigError(
        f"{out.url} exists already; choose another --out, or remove it if it is not needed"
    )


def first_config(place: str, options: FirstOptions) -> Config:
    """The run's config. Raises: ConfigError as `learn_model`."""
    if (options.facts is None) == (options.text is None):
        raise ConfigError("give what is to be learned: either --facts FILE or --text CORPUS")
    if options.facts is not None and options.templates is None:
        raise ConfigError(
            f"{options.facts}: facts need wordings, and a model has none; give a JSON file, "
            'relation -> list of {"pattern", "lemma"} with [X] for the subject and [Y] for the '
            "object, with --templates (examples/staff/templates.json is one)"
        )
    if options.text is not None and options.templates is not None:
        raise ConfigError("--templates are the wordings of --facts; text has none")
    model = Model.at(place)
    if options.facts is not None:
        templates = anchored(str(options.templates))
        values = model_values(model, "facts", [anchored(options.facts)], templates)
    else:
        path = anchored(str(options.text))
        values = model_values(model, "text", [path])
        values["corpus"]["block_bytes"] = fitting_block_bytes((path,))
        values["corpus"] |= columns_in(path)
    out = (options.out or f"{STORAGE}/{_name_of(place)}-memory").rstrip("/")
    storage, _, name = out.rpartition("/")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    values |= {
        "name": name,
        "storage": storage or ".",
        "seed": options.seed or 0,
        # of a model that stays as it is the answers before are those of the model alone
        "evaluation": {"every": 0, "final_windows": 32, "final_probes": 200, "cpus": cpus},
        "exchange": {"catchup_intervals": 1},
        "memory": {"workers": {"cpus": cpus}},
    }
    values["data"]["workers"] = {"cpus": cpus}  # the groups take turns
    first = model_config(values, NAMED.format(name))
    usual = first.memory.steps_per_interval
    steps = options.steps or fitting_steps(first.corpus, first.memory.batch_size, first.seed)
    values["intervals"] = max(1, -(-steps // usual))
    if options.steps is not None:  # as near to them as intervals of one length allow
        each = -(-steps // values["intervals"])
        values["memory"]["steps_per_interval"] = each
        own = first.data.steps_per_interval
        values["data"]["steps_per_interval"] = max(1, round(own * each / usual))
    return model_config(values)


def _name_of(place: str) -> str:
    """A name for the run, of the model's."""
    last = Path(place.rstrip("/")).name
    return re.sub(r"[^A-Za-z0-9._-]", "-", last).lstrip("._-") or "model"


def _show(config: Config, result: RunResult, console: Console, as_json: bool) -> None:
    if as_json:
        console.print_json(data=result.summary)
        return
    print_summary(result.summary, console)
    where = config.run_url
    console.say(f"report: {where}/{REPORT}")
    console.say(f'ask it: tandem ask {where} "…"; more to learn: tandem learn {where} --facts FILE')
