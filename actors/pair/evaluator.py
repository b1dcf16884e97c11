"""Evaluates committed pairs and writes the exports, away from both groups' critical path.

A plain class with a pair of its own that adopts whatever committed snapshots it is handed. Called
through `orchestrator.processes.ray_actors` during a run, and directly by `tandem evaluate`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from actors.corpus.corpus import Corpus
from actors.layers.batch import Batch, to_batch
from actors.layers.pair import Pair
from actors.machine.device import device_of, take_threads
from actors.measuring.heldout import heldout_figures, token_reflection
from actors.measuring.probing import (
    VOICES,
    accuracy_of,
    answer_reflection,
    decode_greedily,
    prompt_tokens,
)
from actors.pair.export_check import export_checked
from actors.settings.run import RunSpec
from actors.snapshots.flat import ByteArray, FlatParameters
from actors.snapshots.sections import section_of
from actors.snapshots.snapshot import take, verify
from actors.sources.facts import Probe
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.build import build_data_layer, build_memory_layer
from actors.wire import Answer, Evaluation, Header

START = (0, 0)  # versions before any training
QUESTION_TOKENS = 24  # of a continuation shown for plain text


class Evaluator:
    """Holds the newest evaluated pair and the one before.

    Args:
        spec: the run.
        tokenizer_json: the run's tokenizer.
        pair: what is evaluated where no version is adopted; None: the run's starting weights.
    """

    def __init__(self, spec: RunSpec, tokenizer_json: str, pair: Pair | None = None) -> None:
        self._spec = spec
        workers = spec.evaluation
        take_threads(workers.cpus)
        self._tokenizer = Tokenizer.from_json(tokenizer_json)
        self._corpus = Corpus.open(spec, self._tokenizer)
        self._device = device_of(workers.gpus)
        self.pair = self._build_pair() if pair is None else _on(pair, self._device)
        self._flats = _flats_of(self.pair)
        self._before: Pair | None = None  # made when there is a second version to compare with
        self._versions: tuple[int, int] | None = None
        self._answers: list[tuple[int, ...]] = []
        self._batch_tokens = workers.batch_tokens
        self._batches: dict[int, Batch] = {}
        facts, evaluation = self._corpus.facts, spec.evaluation
        limit = max(evaluation.probes, evaluation.final_probes)
        self._unseen: list[Probe] = facts.probes(False, limit, spec.seed) if facts else []
        self._seen: list[Probe] = facts.probes(True, limit, spec.seed) if facts else []

    def _build_pair(self) -> Pair:
        device = self._device
        data = build_data_layer(self._spec, self._tokenizer, device).eval().requires_grad_(False)
        memory = build_memory_layer(
            self._spec, self._tokenizer, data.vocab_rows, device
        ).requires_grad_(False)
        return Pair(data, memory)

    def adopt(
        self, headers: Sequence[Sequence[Header]], buckets: Sequence[Sequence[ByteArray]]
    ) -> None:
        """Takes over a committed pair (data, memory), both halves or none; where one was evaluated,
        it becomes the one before.

        Raises:
            SnapshotError: as `snapshot.adopt`.
        """
        for flat, half_headers, half_buckets in zip(self._flats, headers, buckets, strict=True):
            verify(flat, half_headers, half_buckets)
        if self._versions is not None:
            if self._before is None:
                self._before = self._build_pair()
                self._before_flats = _flats_of(self._before)
            for flat, before in zip(self._flats, self._before_flats, strict=True):
                before.buffer.copy_(flat.buffer)
        for flat, half_headers, half_buckets in zip(self._flats, headers, buckets, strict=True):
            take(flat, half_headers, half_buckets)

    def evaluate(
        self,
        headers: Sequence[Sequence[Header]],
        buckets: Sequence[Sequence[ByteArray]],
        final: bool,
    ) -> Evaluation:
        """Held-out figures of a committed pair.

        `final` measures on more, and answers sample questions.
        """
        begin = time.perf_counter()
        self.adopt(headers, buckets)
        versions = headers[0][0].version, headers[1][0].version
        evaluation = self.measure(versions, final, begin)
        if versions == START:
            self._answers = []  # nothing is compared with weights that no group has trained
        else:
            self._versions = versions
        return evaluation

    def measure(
        self, versions: tuple[int, int], final: bool, begin: float | None = None
    ) -> Evaluation:
        """Figures of the pair as it is; what changed since the last one where there was one."""
        begin = time.perf_counter() if begin is None else begin
        sizes = self._spec.evaluation
        num_windows, num_probes = (
            (sizes.final_windows, sizes.final_probes) if final else (sizes.windows, sizes.probes)
        )
        batch = self._heldout(num_windows)
        figures = heldout_figures(self.pair, self._before, batch, sizes.batch_tokens)
        changed, followed = self._reflect(batch)
        unseen, seen = self._unseen[:num_probes], self._seen[:num_probes] if final else []
        return Evaluation(
            data_version=versions[0],
            memory_version=versions[1],
            figures=figures,
            accuracy=self._accuracy(unseen),
            accuracy_seen=self._accuracy(seen),
            num_probes=len(unseen),
            reflection_changed=changed,
            reflection_followed=followed,
            answers=self._questions() if final else (),
            eval_s=time.perf_counter() - begin,
        )

    def export(self, directory: str) -> dict[str, str]:
        """Writes the pair in the formats people use, once what is read back is what was trained.

        Returns the digests, {"data": ..., "memory": ...}.

        Raises:
            ExportError: it is not; the tensors that differ.
        """
        heldout = self._corpus.heldout(self._spec.evaluation.windows)
        export_checked(self._spec, self._tokenizer, self.pair, directory, heldout)
        return self.digests()

    def digests(self) -> dict[str, str]:
        """sha256 over parameter names, shapes, dtypes and bytes of both layers."""
        return {"data": self._flats[0].digest(), "memory": self._flats[1].digest()}

    def _heldout(self, num_windows: int) -> Batch:
        if num_windows not in self._batches:
            self._batches[num_windows] = to_batch(self._corpus.heldout(num_windows), self._device)
        return self._batches[num_windows]

    def _reflect(self, batch: Batch) -> tuple[int, int]:
        """Changed and followed since the pair before.

        Of whole answers where there are probes, else of tokens.
        """
        probes = self._unseen[: self._spec.evaluation.probes]
        if probes:
            prompts = [prompt_tokens(self._tokenizer, p.prompt) for p in probes]
            reflection, self._answers = answer_reflection(
                self.pair, self._answers, self._tokenizer, prompts, self._batch_tokens
            )
        elif self._before is None:
            return 0, 0
        else:
            reflection = token_reflection(self.pair, self._before, batch, self._batch_tokens)
        return reflection.changed, reflection.followed

    def _accuracy(self, probes: Sequence[Probe]) -> dict[str, float]:
        facts = self._corpus.facts
        if facts is None:
            return {}
        return accuracy_of(self.pair, self._tokenizer, probes, facts.majority(), self._batch_tokens)

    def _questions(self) -> tuple[Answer, ...]:
        num, tokenizer = self._spec.evaluation.questions, self._tokenizer
        if num == 0:
            return ()
        if self._unseen:
            asked = [(p.prompt, " or ".join(p.answers)) for p in self._unseen[:num]]
        else:
            batch = self._heldout(self._spec.evaluation.windows)
            half = max(1, batch.tokens_BT.shape[1] // 2)
            asked = []
            for row in batch.tokens_BT[:num].tolist():
                after = tokenizer.decode(row[half : half + QUESTION_TOKENS])
                asked.append((tokenizer.decode(row[:half]), after))
        prompts = [prompt_tokens(tokenizer, prompt) for prompt, _ in asked]
        told = {
            v: decode_greedily(
                self.pair, v, prompts, tokenizer.end, batch_tokens=self._batch_tokens
            )
            for v in VOICES
        }
        said = {v: [tokenizer.decode(t.tokens) for t in told[v]] for v in VOICES}
        return tuple(
            Answer(
                prompt,
                expected,
                said["own"][i].strip(),
                said["help"][i].strip(),
                said["memory"][i].strip(),
            )
            for i, (prompt, expected) in enumerate(asked)
        )


def _on(pair: Pair, device: torch.device) -> Pair:
    return Pair(pair.data.to(device), pair.memory.to(device))


def _flats_of(pair: Pair) -> tuple[FlatParameters, FlatParameters]:
    return FlatParameters(pair.data, section_of), FlatParameters(pair.memory, section_of)
