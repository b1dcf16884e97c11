"""What is to be told, made of what a person gives: a prompt and its answer, or a file of facts.

Checks all that can be wrong without the pair: each mistake is one sentence. Tokenises nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.layers.named_writes import Association
from actors.lessons.given_lessons import read_lessons
from actors.measuring.subjects import refuse_unnamed
from actors.wire import ConfigError

PLACE = "{}"  # of the answer in a wording
MOST = 10_000  # associations of one tell: their solving is exact, not endless


@dataclass(frozen=True)
class Given:
    """Arguments of the command.

    Attributes:
        prompt, answer: one association.
        facts: JSON lines of facts, or of prompts and answers, instead.
        templates: JSON file of facts' wordings; None: the run's.
        say: other wordings of the one association.
        subject: what it is about; empty: it is looked for.
    """

    prompt: str | None = None
    answer: str | None = None
    facts: str | None = None
    templates: str | None = None
    say: Sequence[str] = ()
    subject: str = ""


def associations_of(given: Given, run_templates: str | None) -> list[Association]:
    """What is to be told.

    Args:
        given: by the person.
        run_templates: the run's own wordings, if its corpus has some.

    Raises:
        ConfigError: nothing is given, too much, or what contradicts itself.
    """
    if given.facts is not None:
        if given.prompt is not None or given.say or given.subject:
            raise ConfigError(
                "give either a prompt and its answer, with --say for other wordings and --subject "
                "for what it is about, or --facts FILE, whose lines have their own"
            )
        return from_file(given.facts, given.templates or run_templates)
    if given.prompt is None or given.answer is None:
        raise ConfigError(
            'nothing to tell: give a prompt and its answer, e.g. "The capital of Atlantis is" '
            '"Poseidonis", or --facts FILE'
        )
    if given.templates is not None:
        raise ConfigError("--templates are the wordings of --facts; give --say with a prompt")
    return [one_association(given.prompt, given.answer, given.say, subject=given.subject)]


def one_association(
    prompt: str,
    answer: str,
    say: Sequence[str] = (),
    as_chat: bool = False,
    subject: str = "",
) -> Association:
    """A prompt, its answer and other wordings; `as_chat` and `subject` as in `Association`.

    Raises:
        ConfigError: one of them is empty or no UTF-8; the answer is not last in a wording; or no
            prompt names the subject.
    """
    given = [("prompt", prompt), ("answer", answer), *(("wording", w) for w in say)]
    for name, text in [*given, ("subject", subject)] if subject else given:
        try:
            text.encode()
        except UnicodeEncodeError as err:  # the shell passed bytes of another encoding
            raise ConfigError(
                f"{name} {text!a}: expected UTF-8, got other bytes; set the terminal to UTF-8"
            ) from err
        if not text.strip():
            raise ConfigError(f"the {name} is empty: expected text, got {text!r}")
    wordings = tuple(_up_to_answer(w) for w in say)
    found = Association(prompt.rstrip(), answer.strip(), wordings, as_chat, subject.strip())
    try:
        refuse_unnamed(found.prompts, found.subject)
    except ValueError as err:
        raise ConfigError(str(err)) from err
    return found


def _up_to_answer(wording: str) -> str:
    head, found, tail = wording.partition(PLACE)
    if found and tail.strip(" ."):
        raise ConfigError(
            f"--say {wording!r}: the answer has to come last, got {tail!r} after {PLACE}: a prompt "
            "is what stands before its answer"
        )
    if not head.strip():
        raise ConfigError(f"--say {wording!r}: expected words before the answer")
    return head.rstrip()


def from_file(path: str, templates: str | None) -> list[Association]:
    """One association per line, as lessons have them: a fact in every wording of its relation that
    ends in the object, or a prompt and its answer.

    Args:
        path: JSON lines.
        templates: JSON file of facts' wordings, relation -> list of {pattern, lemma}.

    Raises:
        ConfigError: file and line of what is wrong; no wordings for a fact; a line without an
            answer that is wanted; too many.
    """
    given = read_lessons(path, templates)
    if given.refused:
        raise ConfigError(
            f"{given.refused[0].source}: calls an answer wrong, which leaves nothing to tell; give "
            "the right one, or leave the line out"
        )
    if (num := len(given.lessons)) > MOST:
        raise ConfigError(f"{path}: {num:,} associations, at most {MOST:,} in one tell; split it")
    return [
        Association(one.prompt, one.answer, one.wordings, subject=one.subject or "")
        for one in given.lessons
    ]


def refuse_contradictions(given: Sequence[Association]) -> None:
    """Raises: ConfigError: a prompt has two answers; names both."""
    answers: dict[str, str] = {}
    for association in given:
        for prompt in association.prompts:
            other = answers.setdefault(prompt, association.answer)
            if other != association.answer:
                raise ConfigError(
                    f"one tell, two answers: {prompt!r} is to be followed by {other!r} and by "
                    f"{association.answer!r}; tell one of them, or the second one later, which "
                    "then holds"
                )
