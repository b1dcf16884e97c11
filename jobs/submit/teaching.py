"""The job of `tandem submit teach RUN lessons=FILE …`: the options of `tandem teach` as KEY=VALUE,
and the files that they name, which travel with the job.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from actors.lessons.given_lessons import read_lessons
from actors.sources.text_file import EncodingError, read_text
from actors.storage import storage_errors
from actors.wire import ConfigError
from jobs.submit.package import JOB_FOLDER, PackageFile, text_entry

FILES = {"lessons": "lessons.jsonl", "templates": "templates.json"}  # as they are called there
VALUES = ("out", "steps", "lr", "rehearse", "written", "wordings", "train", "seed")
TOLD, FROM_MEMORY, NO_TELL = "told", "from-memory", "no-tell"
ALL = "all"  # of what was told
SWITCH = ("true", "false")
KEYS = (*FILES, *VALUES, TOLD, FROM_MEMORY, NO_TELL)
EXAMPLE = "tandem submit teach s3://bucket/runs/my-run lessons=lessons.jsonl steps=400"


@dataclass(frozen=True)
class Teaching:
    """A teaching that is to be sent.

    Attributes:
        arguments: of `tandem` on the cluster.
        entries: files that travel.
        out: directory of the result.
    """

    arguments: tuple[str, ...]
    entries: tuple[PackageFile, ...]
    out: str


def teaching_of(run: str, given: Sequence[str]) -> Teaching:
    """The job of these options, KEY=VALUE each.

    Args:
        run: the run that is taught, as the cluster's nodes see it.
        given: the options.

    Raises:
        ConfigError: an unknown key, a value that is missing, nothing to teach, a file that can't be
            read, or lessons that `tandem teach` would refuse.
    """
    values = dict(_parsed(text) for text in given)
    asked = [
        key for key in ("lessons", TOLD, FROM_MEMORY) if values.get(key, SWITCH[1]) != SWITCH[1]
    ]
    if len(asked) != 1:
        raise ConfigError(
            f"give what is to be taught, one of lessons=FILE, {TOLD}={ALL}|ID,ID and "
            f"{FROM_MEMORY}=true; got {' and '.join(asked) or 'none'}; e.g. {EXAMPLE}"
        )
    entries = [text_entry(FILES[key], _read(key, values[key])) for key in FILES if key in values]
    if "lessons" in values and "templates" in values:
        read_lessons(values["lessons"], values["templates"])
    out = values.get("out", f"{run.rstrip('/')}-taught")
    ids = [] if values.get(TOLD, ALL) == ALL else values[TOLD].split(",")
    arguments = ["teach", run, *ids, "--ray", *(["--told"] if TOLD in values else [])]
    arguments += [f"--{key}" for key in (FROM_MEMORY, NO_TELL) if values.get(key) == SWITCH[0]]
    for key in FILES:
        arguments += [f"--{key}", f"{JOB_FOLDER}/{FILES[key]}"] if key in values else []
    for key in VALUES:
        arguments += [f"--{key}", values[key]] if key in values else []
    return Teaching(tuple(arguments), tuple(entries), out)


def _parsed(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    key = key.replace("_", "-")
    if key not in KEYS:
        (near,) = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)
        raise ConfigError(f"{text}: no option {key!r} of a teaching; did you mean {near}=…?")
    if not equals or not value:
        raise ConfigError(f"{text}: expected {key}=VALUE, e.g. {EXAMPLE}")
    if key in (FROM_MEMORY, NO_TELL) and value not in SWITCH:
        raise ConfigError(f"{text}: expected {key}=true or {key}=false")
    return key, value


def _read(key: str, path: str) -> str:
    try:
        with storage_errors(f"{key} {path}", "can't be read"):
            return read_text(path)
    except (EncodingError, OSError, ValueError) as err:
        raise ConfigError(f"{key} {path}: can't be read: {err}") from err
