"""Evaluates committed pairs and writes the exports, in a process that neither group waits for.

A plain class with a pair of its own, which adopts committed snapshots. `EvaluatorActor` wraps it in
a run; `tandem evaluate` uses it directly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import takewhile

import torch

from actors.corpus.corpus import Corpus
from actors.corpus.general_text import shown_general_text
from actors.corpus.kept_windows import kept_windows
from actors.corpus.windows import Windows
from actors.layers.batch import Batch, to_batch
from actors.layers.data_layer import DataLayer
from actors.layers.pair import Pair
from actors.lessons.lesson_files import Exam, read_exam, read_kept_lessons
from actors.lessons.live_lessons import as_lesson
from actors.machine.device import device_of, take_threads
from actors.machine.progress import Progress, unseen
from actors.measuring.heldout import general_figures, heldout_figures, token_reflection
from actors.measuring.knowledge import HELD_OUT, TRAINED_ON
from actors.measuring.lesson_exam import LessonExam
from actors.measuring.probing import accuracy_of, answer_reflection, decode_greedily, prompt_tokens
from actors.measuring.samples import given_and_learned
from actors.measuring.voices import VOICES
from actors.pair.export_check import export_checked
from actors.pair.telling import solve_told
from actors.pair.written_check import COMPARED_WINDOWS, written_figures
from actors.settings.run import MEMORY, RunSpec
from actors.snapshots.flat_parameters import ByteArray, FlatParameters
from actors.snapshots.snapshot import copy_into, verify
from actors.sources.facts import Probe
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer, flatten
from actors.weights.starting_model import StartingModel
from actors.wire import Answer, Evaluation, Header, LiveLesson

START = (0, 0)  # versions before any training
QUESTION_TOKENS = 24  # of the continuation shown for a sample of plain text


class Evaluator:
    """Holds the newest evaluated pair and the one before.

    Args:
        spec: the run.
        tokenizer_json: the run's tokenizer.
        pair: what is evaluated until a version is adopted; None: the run's starting weights.
        starting: the process' own, where it holds more than the evaluator.
        progress: sees what is measured, and how far.
    """

    def __init__(
        self,
        spec: RunSpec,
        tokenizer_json: str,
        pair: Pair | None = None,
        starting: StartingModel | None = None,
        progress: Progress = unseen,
    ) -> None:
        self._spec, self._progress = spec, progress
        workers = spec.evaluation
        take_threads(workers.cpus)
        self._tokenizer = Tokenizer.from_json(tokenizer_json)
        self._corpus = Corpus.open(spec, self._tokenizer)
        self._device = device_of(workers.gpus)
        self._starting = starting or StartingModel(spec, self._tokenizer)
        self.pair = self._build_pair() if pair is None else _on(pair, self._device)
        self._flats = _flats_of(self.pair)
        self._before: DataLayer | None = None  # built with the second version
        self._versions: tuple[int, int] | None = None
        self._answers: list[tuple[int, ...]] = []
        self._warnings: tuple[str, ...] = ()
        self._live: tuple[LiveLesson, ...] = ()  # what the adopted data layer is taught
        self._batch_tokens = workers.batch_tokens
        self._batches: dict[int, Batch] = {}
        general = shown_general_text(spec, self._tokenizer)
        self._general = None if general is None else to_batch(general, self._device)
        self._compared: Windows | None = None  # read when it is needed
        facts, evaluation = self._corpus.facts, spec.evaluation
        limit = max(evaluation.probes, evaluation.final_probes)
        self._unseen: list[Probe] = facts.probes(False, limit, spec.seed) if facts else []
        self._seen: list[Probe] = facts.probes(True, limit, spec.seed) if facts else []
        self._lesson_exam = None
        if spec.teach.is_on:
            lessons, exam = read_kept_lessons(spec.teach), read_exam(spec.teach)
            self._lesson_exam = LessonExam(self._tokenizer, lessons, exam, self._batch_tokens)

    def _build_data(self) -> DataLayer:
        spec, tokenizer, device = self._spec, self._tokenizer, self._device
        layer = build_data_layer(spec, tokenizer, device, self._starting).eval()
        return layer.requires_grad_(False)

    def _build_pair(self) -> Pair:
        data = self._build_data()
        memory = build_memory_layer(self._spec, self._tokenizer, data.vocab_rows, self._device)
        return Pair(data, memory.requires_grad_(False))

    def adopt(
        self, headers: Sequence[Sequence[Header]], buckets: Sequence[Sequence[ByteArray]]
    ) -> None:
        """Adopts a committed pair (data, memory), both layers or neither; a pair that was evaluated
        becomes the one before.

        Raises:
            SnapshotError: as `snapshot.verify`.
        """
        for flat, own_headers, own_buckets in zip(self._flats, headers, buckets, strict=True):
            verify(flat, own_headers, own_buckets)
        if self._versions is not None:
            self._keep_before()
        for flat, own_headers, own_buckets in zip(self._flats, headers, buckets, strict=True):
            copy_into(flat, own_headers, own_buckets)
        told = headers[1][0].told
        if told:
            self._kept()
        self._live = headers[0][0].lessons
        self._warnings = solve_told(self.pair.memory, self._tokenizer, told)

    def _keep_before(self) -> None:
        """Keeps the data layer as it is, where the next one's tokens are compared with its own."""
        if self._unseen[: self._spec.evaluation.probes]:
            return
        if self._before is None:
            self._before = self._build_data()
            self._before_flat = flatten(self._before, self._before.base)
        self._before_flat.buffer.copy_(self._flats[0].buffer)

    def _kept(self) -> None:
        """Gives the memory the sample of its text that it keeps, once."""
        memory = self.pair.memory
        if memory.kept is None:
            memory.kept = kept_windows(self._corpus, MEMORY, self._spec.memory.kept_reads)

    def evaluate(
        self,
        headers: Sequence[Sequence[Header]],
        buckets: Sequence[Sequence[ByteArray]],
        final: bool,
    ) -> Evaluation:
        """Held-out figures of a committed pair; `final`: on more windows, with sample questions."""
        begin = time.perf_counter()
        self.adopt(headers, buckets)
        versions = headers[0][0].version, headers[1][0].version
        evaluation = self.measure(versions, final, begin)
        if versions == START:
            self._answers = []  # no comparison with untrained weights
        else:
            self._versions = versions
        return evaluation

    def measure(
        self, versions: tuple[int, int], final: bool, begin: float | None = None
    ) -> Evaluation:
        """Figures of the present pair, and of changes since the one before, if there is one."""
        begin = time.perf_counter() if begin is None else begin
        sizes = self._spec.evaluation
        num_windows, num_probes = (
            (sizes.final_windows, sizes.final_probes) if final else (sizes.windows, sizes.probes)
        )
        batch = self._heldout(num_windows)
        figures = heldout_figures(self.pair, batch, sizes.batch_tokens, self._progress)
        if self._general is not None:
            self._progress("general text")
            figures |= general_figures(self.pair, self._general, sizes.batch_tokens)
        figures |= self._written() | self._taught()
        changed, followed = self._reflect(batch)
        held_out, seen = self._unseen[:num_probes], self._seen[:num_probes] if final else []
        return Evaluation(
            data_version=versions[0],
            memory_version=versions[1],
            figures=figures,
            accuracy=self._accuracy(held_out, HELD_OUT),
            accuracy_seen=self._accuracy(seen, TRAINED_ON),
            num_probes=len(held_out),
            reflection_changed=changed,
            reflection_followed=followed,
            answers=self._questions() if final else (),
            taught=self._lesson_exam.take(self.pair) if final and self._lesson_exam else None,
            eval_s=time.perf_counter() - begin,
            warnings=self._warnings,
        )

    def export(self, directory: str) -> dict[str, str]:
        """Writes the pair in standard formats, after checking that it reads back as it was trained.

        Returns the digests, {"data": ..., "memory": ...}.

        Raises:
            ExportError: it does not; names the tensors that differ.
        """
        heldout = self._corpus.heldout(self._spec.evaluation.windows)
        self._kept()
        export_checked(self._spec, self._tokenizer, self.pair, directory, heldout)
        return self.digests()

    def digests(self) -> dict[str, str]:
        """sha256 over parameter names, shapes, dtypes and bytes of both layers."""
        return {"data": self._flats[0].digest(), "memory": self._flats[1].digest()}

    def _heldout(self, num_windows: int) -> Batch:
        if num_windows not in self._batches:
            self._batches[num_windows] = to_batch(self._corpus.heldout(num_windows), self._device)
        return self._batches[num_windows]

    def _written(self) -> dict[str, float]:
        """How good a writer the memory is: as `written_figures`, the same draws each time."""
        if not (num := self._spec.evaluation.written):
            return {}
        self._progress("what the memory writes")
        if self._compared is None:
            self._compared = self._corpus.heldout(COMPARED_WINDOWS)
        return written_figures(
            self.pair, self._tokenizer, self._compared, num, self._spec.seed, self._batch_tokens
        )

    def _taught(self) -> dict[str, float]:
        """Share of the lessons of a run that is taught while it goes on, by voice; as given, and by
        the data layer in their other wordings.
        """
        if not self._live:
            return {}
        lessons = [as_lesson(one) for one in self._live]
        taught = LessonExam(self._tokenizer, lessons, Exam(), self._batch_tokens).take(self.pair)
        found = {
            f"lessons_{voice}": sum(voice in one.right for one in taught.lessons) / len(lessons)
            for voice in VOICES
        }
        if num := sum(one.reworded for one in taught.lessons):
            found["lessons_reworded"] = sum(one.reworded_right for one in taught.lessons) / num
        return found

    def _reflect(self, batch: Batch) -> tuple[int, int]:
        """Predictions that the data layer changed since the pair before, and those that the memory
        followed: whole answers if there are probes, else tokens.
        """
        probes = self._unseen[: self._spec.evaluation.probes]
        self._progress("what changed, and what the memory followed")
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

    def _accuracy(self, probes: Sequence[Probe], what: str) -> dict[str, float]:
        facts = self._corpus.facts
        if facts is None:
            return {}
        size, progress = self._batch_tokens, self._progress
        majority = facts.majority()
        return accuracy_of(self.pair, self._tokenizer, probes, majority, size, progress, what)

    def _questions(self) -> tuple[Answer, ...]:
        num, tokenizer = self._spec.evaluation.questions, self._tokenizer
        if num == 0:
            return ()
        self._progress("a few questions")
        if self._unseen:
            questions = [(p.prompt, " or ".join(p.answers)) for p in self._unseen[:num]]
            prompts = [prompt_tokens(tokenizer, prompt) for prompt, _ in questions]
        else:
            questions, prompts = self._samples(num)
        ends = tokenizer.ends
        continued = {
            v: decode_greedily(self.pair, v, prompts, ends, batch_tokens=self._batch_tokens)
            for v in VOICES
        }
        texts = {v: [tokenizer.decode(t.tokens) for t in continued[v]] for v in VOICES}
        return tuple(
            Answer(
                prompt,
                expected,
                texts["own"][i].strip(),
                texts["help"][i].strip(),
                texts["memory"][i].strip(),
            )
            for i, (prompt, expected) in enumerate(questions)
        )

    def _samples(self, num: int) -> tuple[list[tuple[str, str]], list[list[int]]]:
        """Of held-out text: what is asked, what really follows, and the tokens of the former."""
        batch, tokenizer = self._heldout(self._spec.evaluation.windows), self._tokenizer
        half, ends = max(1, batch.tokens_BT.shape[1] // 2), tokenizer.ends
        questions, prompts = [], []
        for row, segments, valid in zip(
            batch.tokens_BT[:num].tolist(),
            batch.host.segments_BT[:num].tolist(),
            batch.host.valid_BT[:num].tolist(),
            strict=True,
        ):
            given = given_and_learned(row, segments, valid)
            asked, after = given or (row[:half], row[half:])
            if given:  # whose answer ends with its turn, as those that are shown beside it
                after = [*takewhile(lambda token: token not in ends, after)]
            prompt = tokenizer.decode(asked)
            questions.append((prompt, tokenizer.decode(after[:QUESTION_TOKENS])))
            prompts.append(asked if given else prompt_tokens(tokenizer, prompt))
        return questions, prompts


def _on(pair: Pair, device: torch.device) -> Pair:
    return Pair(pair.data.to(device), pair.memory.to(device))


def _flats_of(pair: Pair) -> tuple[FlatParameters, FlatParameters]:
    base = pair.data.base
    return flatten(pair.data, base), flatten(pair.memory, base)
