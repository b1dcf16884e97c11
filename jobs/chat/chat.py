"""A conversation with a pair: what is said goes to it, what begins with a slash is a command.

    line -> /command -> voice, λ, tell, untell, …
         -> text     -> turns so far, by the chat template -> pieces of the answer, as they are said

A pair whose tokenizer has no chat template continues each line by itself, as the start of a
document.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from actors.measuring.voices import VOICES
from actors.pair.conversation import conversation_ids, has_template, turn_ends
from actors.pair.speech import SpeechOptions, shares_of, speak
from actors.pair.tandem_model import TandemModel
from actors.wire import ConfigError
from jobs.tell.associations import one_association
from jobs.tell.told_pair import ToldPair, run_sample
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.run_dir import RunDir, find_export

BETWEEN = "=>"  # of a prompt and its answer in /tell
COMMANDS = {
    "/voice": "own, help or memory: who speaks from now on",
    "/lambda": "show the memory's share λ of each answer, and how fresh it is; again: hide it",
    "/tell": f"PROMPT {BETWEEN} ANSWER: the memory knows it from now on, and keeps it with the run",
    "/told": "what it was told",
    "/untell": "ID: take that back",
    "/new": "forget the turns so far",
    "/help": "this list",
    "/quit": "end",
}


@dataclass(frozen=True)
class ChatOptions:
    """Options of the command.

    Attributes:
        voice: who speaks at first.
        max_tokens: of an answer, at most.
        temperature: 0 is greedy.
        seed: of what is drawn; None: any.
        system: what is said before all turns; needs a chat template.
        shares: show λ and freshness.
    """

    voice: str = "help"
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int | None = None
    system: str | None = None
    shares: bool = False


class Chat:
    """A conversation.

    Args:
        pair: that is talked with.
        options: of the command.
        console: where answers go.

    Raises:
        ConfigError: an unknown voice, or a system text for a pair without a chat template.
    """

    def __init__(self, pair: ToldPair, options: ChatOptions, console: Console) -> None:
        self._pair, self._options, self._console = pair, options, console
        self._voice, self._shows_shares = _voice(options.voice), options.shares
        self._has_template = has_template(pair.model)
        self._turn_ends = turn_ends(pair.model)
        if options.system is not None and not self._has_template:
            raise ConfigError(
                "--system: this pair's tokenizer has no chat template that says how to write it; "
                "leave it out"
            )
        self._turns: list[dict[str, str]] = []
        self._said_dropped = False

    @property
    def _model(self) -> TandemModel:
        return self._pair.model

    def greet(self, run: str) -> None:
        """Says with whom one talks."""
        self._console.say(f"{run}: {self._voice} speaks; /help lists what else there is")
        if not self._has_template:
            self._console.say(
                "its tokenizer has no chat template: each line is the start of a document, which "
                "it continues, and turns before are not read"
            )

    def take(self, line: str) -> bool:
        """Answers a line or carries out a command; returns whether the conversation goes on."""
        line = line.strip()
        if not line:
            return True
        if line == "/quit":
            return False
        try:
            self._pair.refresh()
            if line.startswith("/") and not line.startswith("//"):
                self._command(*_parted(line))
            else:
                self._answer(line.removeprefix("/") if line.startswith("//") else line)
        except ConfigError as err:
            self._console.say(str(err), style="red")
        return True

    def _command(self, name: str, rest: str) -> None:
        if name == "/voice" and not rest:
            others = " and ".join(voice for voice in VOICES if voice != self._voice)
            self._console.say(f"{self._voice} speaks; {others} are the others")
        elif name == "/voice":
            self._voice = _voice(rest)
            self._console.say(f"{self._voice} speaks")
        elif name == "/lambda":
            self._shows_shares = not self._shows_shares
            self._console.say("λ is shown" if self._shows_shares else "λ is not shown")
        elif name == "/new":
            self._turns.clear()
            self._console.say("the turns so far are forgotten")
        elif name == "/told":
            for write in self._pair.writes:
                pairs = dict.fromkeys((a.prompt, a.answer) for a in write.associations)
                told = "; ".join(f"{prompt} {BETWEEN} {a}" for prompt, a in list(pairs)[:3])
                more = len(pairs) - 3
                rest = f"; {more} more" if more > 0 else ""
                self._console.say(f"{write.id}{'' if write.on else ' (off)'}: {told}{rest}")
            if not len(self._pair.writes):
                self._console.say("nothing is told")
        elif name == "/tell":
            self._tell(rest)
        elif name == "/untell":
            if not rest:
                raise ConfigError("/untell: expected the ID of a write; /told lists them")
            self._pair.untell(rest, self._console.say)
            self._console.say(f"write {rest} is taken back")
        elif name == "/help":
            for known, meaning in COMMANDS.items():
                self._console.say(f"{known:8} {meaning}")
            self._console.say("//…      a text that begins with a slash")
        else:
            near = difflib.get_close_matches(name, COMMANDS, 1, 0)
            raise ConfigError(f"no command {name}; did you mean {near[0]}? /help lists all")

    def _tell(self, rest: str) -> None:
        prompt, between, answer = rest.partition(BETWEEN)
        if not between:
            raise ConfigError(
                f"/tell: expected PROMPT {BETWEEN} ANSWER, e.g. /tell The capital of Atlantis is "
                f"{BETWEEN} Poseidonis; got {rest!r}"
            )
        given = [one_association(prompt.strip(), answer)]
        if self._has_template:  # known in a chat, and where the prompt is continued
            given.insert(0, replace(given[0], as_chat=True))
        with TaskProgress() as progress:
            told = self._pair.tell(given, say=progress.says, progress=progress)
        said = told.said[0]
        self._console.say(
            f"told, as write {told.write.id} in {told.seconds:.1f} s; said before: {said.before}; "
            f"says now: {said.after}"
        )

    def _prompt(self) -> tuple[list[int], int]:
        """Tokens of the turns, and of the answer at most; drops the oldest turns where they are too
        many.
        """
        system = [] if self._options.system is None else [_turn("system", self._options.system)]
        window = self._model.longest
        while True:
            ids = conversation_ids(self._model, [*system, *self._turns])
            room = self._options.max_tokens if window is None else window - len(ids)
            enough = min(self._options.max_tokens, (window or room) // 4)
            if room >= max(1, enough) or len(self._turns) == 1:
                break
            del self._turns[:2]
            if not self._said_dropped:
                self._console.say(
                    f"the conversation is longer than the {window} tokens that the model reads: "
                    "its oldest turns are left out from now on",
                    style="yellow",
                )
            self._said_dropped = True
        if room < 1:
            raise ConfigError(f"that is {len(ids)} tokens; the model reads {window} at most")
        return ids, min(room, self._options.max_tokens)

    def _answer(self, text: str) -> None:
        if not self._has_template:
            self._turns.clear()
        self._turns.append(_turn("user", text))
        said = ""
        try:
            prompt, most = self._prompt()
            options = SpeechOptions(
                self._voice,  # type: ignore[arg-type]  # one of the three
                most,
                self._options.temperature,
                seed=self._options.seed,
                ends=self._turn_ends,
            )

            def show(piece: Any) -> None:
                nonlocal said
                shown = piece.text if said.strip() else piece.text.lstrip()
                said += piece.text
                self._console.print(shown, end="", soft_wrap=True)

            [spoken] = speak(self._model, [prompt], options, show)
        except KeyboardInterrupt:
            self._console.say(" … stopped")
        except BaseException:
            self._turns.pop()
            raise
        else:
            self._console.say("" if spoken.text.strip() else "(nothing)")
            if self._shows_shares:
                self._console.say(self._shares(prompt, list(spoken.tokens)), style="dim")
        self._turns.append(_turn("assistant", said))

    def _shares(self, prompt: list[int], tokens: list[int]) -> str:
        if self._voice != "help":
            return f"{self._voice} speaks alone: no λ"
        mixing, fresh = shares_of(self._model, prompt, tokens)
        if not mixing:
            return "no token, no λ"
        mean = sum(mixing) / len(mixing)
        text = f"λ {mean:.2f} ({min(mixing):.2f} to {max(mixing):.2f})"
        if fresh:
            text += f", fresh {sum(fresh) / len(fresh):.2f} (up to {max(fresh):.2f})"
        return f"{text}; {len(mixing)} tokens"


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _parted(line: str) -> tuple[str, str]:
    name, _, rest = line.partition(" ")
    return name, rest.strip()


def _voice(name: str) -> str:
    if name in VOICES:
        return name
    near = difflib.get_close_matches(name, VOICES, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"no voice {name!r}: expected one of {', '.join(VOICES)}{hint}")


def read_lines() -> Iterator[str]:
    """Lines of the person: from a terminal with a prompt and a history, else from standard input.
    Ctrl-C at the prompt ends the line, not the conversation.
    """
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):
        import readline  # noqa: F401  # `input` then has a history
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            yield ""


def run_chat(
    run: str,
    options: ChatOptions,
    console: Console,
    lines: Callable[[], Iterator[str]] = read_lines,
) -> None:
    """Talks until the lines end or /quit.

    Raises:
        ConfigError: no finished run there, an unknown voice, or a system text without a template.
    """
    _voice(options.voice)
    export = find_export(run)
    with TaskProgress() as progress:
        progress("loading the pair")
        pair = ToldPair(export, run_sample(RunDir(run)), progress)
    chat = Chat(pair, options, console)
    chat.greet(run)
    for line in lines():
        if not chat.take(line):
            break
