"""What the HTTP service does with its pair; no HTTP. One call at a time, on whatever thread.

Every request sees what was kept before it came: on a disk the manifest of the writes is read each
time, on remote storage once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from actors.storage import is_local
from actors.wire import ConfigError, StorageError
from jobs.serve.messages import Completions, Tell, Untell
from jobs.tell.associations import one_association, refuse_contradictions
from jobs.tell.told_pair import ToldPair, described, run_sample
from jobs.tell.told_pair import UnknownWriteError as UnknownWriteError
from orchestrator.run_dir.run_dir import RunDir, find_export

REMOTE_EVERY_S = 1.0


class GoneError(ConfigError):
    """The folder of the served pair is gone, damaged or away."""


@dataclass(frozen=True)
class Completed:
    """Choices and usage of a completion, as the OpenAI API has them."""

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

    def complete(self, asked: Completions) -> Completed:
        """Continuations of the prompts. Raises: ConfigError: a prompt leaves no room."""
        model, tokenizer = self._pair.model, self._pair.model.tokenizer
        prompts = [prompt for prompt in asked.prompts for _ in range(asked.n)]
        inputs = model.prompt_inputs(prompts)
        width = inputs["input_ids"].shape[1]
        self._refuse_too_long(width, asked.max_tokens)
        if asked.seed is not None:
            torch.manual_seed(asked.seed)
        sampling: dict[str, Any] = {"do_sample": False}
        if asked.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": asked.temperature,
                "top_p": asked.top_p,
                "top_k": 0,
            }
        stops = {"stop_strings": asked.stops, "tokenizer": tokenizer} if asked.stops else {}
        with torch.no_grad():
            said = model.generate(
                **inputs, voice=asked.voice, max_new_tokens=asked.max_tokens, **sampling, **stops
            )
        num_prompt = int(inputs["attention_mask"].sum()) // asked.n
        choices, num_new = [], 0
        for index, (row, prompt) in enumerate(zip(said[:, width:].tolist(), prompts, strict=True)):
            tokens = self._until_end(row)
            num_new += len(tokens)
            has_ended = len(tokens) < asked.max_tokens
            text, is_cut = _cut(self._text(prompt, tokens), asked.stops)
            choices.append(
                {
                    "index": index,
                    "text": f"{prompt}{text}" if asked.with_prompt else text,
                    "logprobs": None,
                    "finish_reason": "stop" if has_ended or is_cut else "length",
                }
            )
        usage = {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_new,
            "total_tokens": num_prompt + num_new,
        }
        return Completed(choices, usage)

    def _refuse_too_long(self, width: int, max_tokens: int) -> None:
        window = getattr(self._pair.model.config, "max_position_embeddings", None)
        if window is not None and width + max_tokens > window:
            raise ConfigError(
                f"the prompt has {width} tokens and max_tokens is {max_tokens}, but the model "
                f"takes {window} tokens in all; shorten the prompt or lower max_tokens"
            )

    def _until_end(self, row: list[int]) -> list[int]:
        """Tokens before the one that ends a text."""
        ends = self._pair.model.generation_config.eos_token_id
        marks = {
            *(ends if isinstance(ends, list) else [ends]),
            self._pair.model.tokenizer.pad_token_id,
        }
        at = next((at for at, token in enumerate(row) if token in marks), len(row))
        return row[:at]

    def _text(self, prompt: str, tokens: list[int]) -> str:
        """What the tokens add to the prompt; alone some tokenizers drop their first space."""
        tokenizer = self._pair.model.tokenizer
        ids = tokenizer(prompt).input_ids
        before = str(tokenizer.decode(ids, skip_special_tokens=True))
        whole = str(tokenizer.decode([*ids, *tokens], skip_special_tokens=True))
        if whole.startswith(before):
            return whole[len(before) :]
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    def tell(self, asked: Tell) -> dict[str, Any]:
        """Tells the pair; every request after it is answered with it. Raises: ConfigError."""
        if (asked.associations is None) == (asked.prompt is None or asked.answer is None):
            raise ConfigError("expected a prompt and its answer, or associations; give one of them")
        if asked.associations is None:
            assert asked.prompt is not None
            assert asked.answer is not None
            given = [one_association(asked.prompt, asked.answer, asked.say)]
        elif asked.prompt is not None or asked.answer is not None or asked.say:
            raise ConfigError("associations have prompts, answers and wordings of their own")
        else:
            given = [one_association(a.prompt, a.answer, a.say) for a in asked.associations]
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


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop, and whether there was one."""
    at = min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))
    return text[:at], at < len(text)
