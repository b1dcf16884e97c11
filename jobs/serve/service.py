"""What the HTTP service does with its pair; no HTTP. One call at a time, on whatever thread.

Every request sees what was kept before it came: on a disk the manifest of the writes is read each
time, on remote storage once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from actors.pair.conversation import conversation_ids, has_template, prompt_ids, turn_ends
from actors.pair.speech import Piece, SpeechOptions, Spoken, speak
from actors.storage import is_local
from actors.wire import ConfigError, StorageError
from jobs.serve.messages import Chat, Completions, Tell, Untell
from jobs.tell.associations import one_association, refuse_contradictions
from jobs.tell.told_pair import ToldPair, described, run_sample
from jobs.tell.told_pair import UnknownWriteError as UnknownWriteError
from orchestrator.run_dir.run_dir import RunDir, find_export

REMOTE_EVERY_S = 1.0


ANSWER_TOKENS = 256  # of a turn in a chat, where a request says nothing
OnPiece = Callable[[Piece], None]


class TooLongError(ConfigError):
    """A prompt leaves no room for what is asked for."""


class GoneError(ConfigError):
    """The folder of the served pair is gone, damaged or away."""


@dataclass(frozen=True)
class Completed:
    """Choices (index, text, why it ended) and usage of a completion."""

    choices: list[dict[str, Any]]
    usage: dict[str, int]


class Service:
    """A pair that is served.

    Args:
        run: a run's directory, or its export alone.
        num_threads: of torch.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        run: str,
        num_threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        torch.set_num_threads(num_threads)
        export = find_export(run)
        self.name, self._clock = RunDir(run).url.rpartition("/")[2], clock
        self._pair = ToldPair(export, run_sample(RunDir(run)))
        self._turn_ends = turn_ends(self._pair.model)
        if self._pair.model.memory_layer.kept is not None:
            _ = self._pair.model.kept_reads  # made once, so that the first tell is as quick
        self._every_s = 0.0 if is_local(export) else REMOTE_EVERY_S
        self._next = 0.0

    def refresh(self) -> None:
        """Takes over what other replicas and processes changed. Raises: GoneError."""
        if self._clock() < self._next:
            return
        try:
            self._pair.refresh()
        except (ConfigError, StorageError) as err:
            raise GoneError(
                f"the pair {self.name} can't be served now: {err}. It is served again once its "
                "folder is as it was"
            ) from err
        self._next = self._clock() + self._every_s

    def complete(self, asked: Completions, on_piece: OnPiece | None = None) -> Completed:
        """Continuations of the prompts. Raises: ConfigError: a prompt leaves no room."""
        model = self._pair.model
        prompts = [p for prompt in asked.prompts for p in [prompt_ids(model, prompt)] * asked.n]
        before = [p for prompt in asked.prompts for p in [prompt] * asked.n]
        options = self._options(asked, prompts, asked.max_tokens)
        if asked.with_prompt and on_piece is not None:
            for index, text in enumerate(before):
                on_piece(Piece(index, text))
        spoken = speak(model, prompts, options, on_piece)
        texts = [
            f"{prompt}{one.text}" if asked.with_prompt else one.text
            for prompt, one in zip(before, spoken, strict=True)
        ]
        return _completed(texts, spoken, sum(map(len, prompts)) // asked.n)

    def chat(self, asked: Chat, on_piece: OnPiece | None = None) -> Completed:
        """The assistant's next turn, `n` times. Raises: ConfigError: as `conversation_ids`."""
        model = self._pair.model
        prompt = conversation_ids(model, [message.plain for message in asked.messages])
        window = self._window
        room = ANSWER_TOKENS if window is None else max(1, window - len(prompt))
        options = self._options(asked, [prompt], asked.most_tokens or min(ANSWER_TOKENS, room))
        options = replace(options, ends=self._turn_ends)
        spoken = speak(model, [prompt] * asked.n, options, on_piece)
        return _completed([one.text for one in spoken], spoken, len(prompt))

    def _options(
        self, asked: Completions | Chat, prompts: list[list[int]], max_tokens: int
    ) -> SpeechOptions:
        width = max(len(prompt) for prompt in prompts)
        if self._window is not None and width + max_tokens > self._window:
            raise TooLongError(
                f"the prompt has {width} tokens and max_tokens is {max_tokens}, but the model "
                f"takes {self._window} tokens in all; shorten the prompt or lower max_tokens"
            )
        return SpeechOptions(
            asked.voice, max_tokens, asked.temperature, asked.top_p, asked.stops, asked.seed
        )

    @property
    def _window(self) -> int | None:
        return self._pair.model.longest

    def tell(self, asked: Tell) -> dict[str, Any]:
        """Tells the pair; every request after it is answered with it. Raises: ConfigError."""
        if (asked.associations is None) == (asked.prompt is None or asked.answer is None):
            raise ConfigError("expected a prompt and its answer, or associations; give one of them")
        if asked.associations is None:
            assert asked.prompt is not None
            assert asked.answer is not None
            given = [
                one_association(asked.prompt, asked.answer, asked.say, asked.as_chat, asked.subject)
            ]
        elif asked.prompt or asked.answer or asked.say or asked.as_chat or asked.subject:
            raise ConfigError(
                "associations have prompts, answers, wordings and subjects of their own; give "
                "nothing beside them"
            )
        else:
            given = [
                one_association(a.prompt, a.answer, a.say, a.as_chat, a.subject)
                for a in asked.associations
            ]
        if any(one.as_chat for one in given) and not has_template(self._pair.model):
            raise ConfigError(
                "as_chat: this pair's tokenizer has no chat template that says how a turn is "
                "written; leave it out"
            )
        refuse_contradictions(given)
        return {"object": "write", **self._pair.tell(given).to_json()}

    def told(self) -> list[dict[str, Any]]:
        """All writes, in their order."""
        return [{"object": "write", **described(write)} for write in self._pair.writes]

    def untell(self, asked: Untell) -> dict[str, Any]:
        """Takes a write back, or switches it. Raises: UnknownWriteError."""
        if asked.on is not None:
            write = self._pair.switch(asked.id, asked.on)
            return {"object": "write", **described(write), "taken_back": False}
        write = self._pair.untell(asked.id)
        return {"object": "write", **described(write), "on": False, "taken_back": True}


def _completed(texts: Sequence[str], spoken: Sequence[Spoken], num_prompt: int) -> Completed:
    num_new = sum(len(one.tokens) for one in spoken)
    choices = [
        {"index": index, "text": text, "why": one.why}
        for index, (text, one) in enumerate(zip(texts, spoken, strict=True))
    ]
    usage = {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_new,
        "total_tokens": num_prompt + num_new,
    }
    return Completed(choices, usage)
