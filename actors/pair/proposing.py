"""Answers to choose from: what the memory holds possible, asked in wordings that it understands.

    prompt -> template and subject -> other wordings of it, mined from what the memory wrote
           -> whole answers that the relation allows: what those wordings end in, there; and the
              memory's own likeliest answers (beams)
           -> each answer's probability, asked in all of these wordings

A person picks one by its number: log2 of the number of choices in bits. Reads no data layer and no
corpus. Called by `tandem propose`.

Shapes: B sequences, T tokens, V token ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.layers.memory_layer import MemoryLayer
from actors.layers.pair import Pair
from actors.layers.predicted import log_probabilities
from actors.measuring.probing import answer_tokens, continuation, pad_right, prompt_tokens
from actors.measuring.voices import BATCH_TOKENS, batches, predict_voice_at
from actors.pair.wordings import WrittenText, template_with
from actors.sources.facts import SUBJECT
from actors.tokenizers.tokenizer import Tokenizer

MAX_WORDINGS = 4  # in which an answer is asked
MAX_MINED = 16  # whose objects are counted
MAX_TOKENS = 12  # of an answer
BEAMS = 16
# An answer's score is p^0.2 (n + 1/2)^0.5, p as asked, n the subjects that it was written of: about
# new subjects the memory is far too sure.
CERTAINTY, FREQUENCY = 0.2, 0.5


@dataclass(frozen=True)
class Proposals:
    """Answers to one prompt, the best first.

    Attributes:
        prompt: what was asked.
        subject: what it is about; None: no such sentence was written.
        wordings: prompts in which the memory was asked.
        answers: whole answers, without a full stop.
        probabilities: of each, among all answers that were compared: their scores over the sum.
    """

    prompt: str
    subject: str | None
    wordings: tuple[str, ...]
    answers: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def bits(self) -> float:
        """What picking one of them says."""
        return math.log2(max(1, len(self.answers)))


class Proposer:
    """Proposes answers.

    Args:
        pair: whose memory is asked.
        tokenizer: the run's.
        written: text that the memory wrote.
        batch_tokens: of a forward pass.
    """

    def __init__(
        self,
        pair: Pair,
        tokenizer: Tokenizer,
        written: WrittenText,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self._pair, self._tokenizer, self._written = pair, tokenizer, written
        self._batch_tokens = batch_tokens
        self._known: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {}

    def propose(self, prompt: str, num: int, subject: str | None = None) -> Proposals:
        """At most `num` answers to a prompt.

        Args:
            prompt: a text that an answer follows.
            num: answers.
            subject: what it is about, where that is known.
        """
        prompt = prompt.strip()
        template = template_with(prompt, subject) if subject else None
        if template is None and (found := self._written.template_of(prompt)):
            template, subject = found
        wordings: tuple[str, ...] = (prompt,)
        counts: dict[str, int] = {}
        if template is not None and subject is not None:
            templates, counts = self._relation(template)
            wordings = tuple(t.replace(SUBJECT, subject) for t in templates[:MAX_WORDINGS])
        if len(counts) < num:  # the relation allows too few, or is unknown
            counts = counts | {answer: counts.get(answer, 0) for answer in self._beams(prompt)}
        if not counts:
            return Proposals(prompt, subject, wordings, (), ())
        answers = sorted(counts)
        asked = torch.stack([self._logp(wording, answers) for wording in wordings])
        scores = CERTAINTY * (asked.logsumexp(0) - math.log(len(wordings)))
        scores = scores + FREQUENCY * torch.tensor([counts[a] + 0.5 for a in answers]).log()
        best = scores.log_softmax(0).sort(descending=True, stable=True)
        chosen = best.indices[:num].tolist()
        ps = best.values[:num].exp().tolist()
        return Proposals(prompt, subject, wordings, tuple(answers[i] for i in chosen), tuple(ps))

    def _relation(self, template: str) -> tuple[tuple[str, ...], dict[str, int]]:
        """All wordings of a template, itself first, and what they end in."""
        if template not in self._known:
            mined = self._written.mine(template, MAX_MINED)
            templates = (template, *(w.template for w in mined))
            self._known[template] = templates, dict(self._written.objects(templates))
        return self._known[template]

    def _logp(self, prompt: str, answers: Sequence[str]) -> Tensor:
        """Log probability of each whole answer after the prompt, up to its full stop."""
        begun = prompt_tokens(self._tokenizer, prompt)
        ends = [answer_tokens(self._tokenizer, answer) for answer in answers]
        return answer_logp(self._pair, [begun] * len(ends), ends, self._batch_tokens)

    def _beams(self, prompt: str) -> list[str]:
        """Whole answers that the memory alone holds likeliest."""
        begun = prompt_tokens(self._tokenizer, prompt)
        stop = self._tokenizer.encode("x.")[-1]
        found = search_answers(self._pair.memory, begun, {stop, self._tokenizer.end}, BEAMS)
        texts = (continuation(self._tokenizer, begun, tokens).strip(" .") for tokens in found)
        return [text for text in dict.fromkeys(texts) if text]


@torch.no_grad()
def answer_logp(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """Log probability of each answer after its prompt, by the memory alone."""
    rows = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
    found = torch.zeros(len(rows))
    for indices in batches([len(row) for row in rows], batch_tokens, len(rows)):
        tokens_BT, segments_BT = pad_right([rows[i] for i in indices], 0, pair.memory.values.device)
        where_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        for at, i in enumerate(indices):
            where_BT[at, len(prompts[i]) - 1 : len(rows[i]) - 1] = True
        targets_N, start = tokens_BT.roll(-1, 1)[where_BT], 0
        parts = []
        for part in predict_voice_at(pair, "memory", tokens_BT, segments_BT, where_BT):
            targets = targets_N[start : start + len(part.logp)]
            parts.append(part.logp.gather(1, targets[:, None])[:, 0])
            start += len(targets)
        each = torch.cat(parts).split([len(answers[i]) for i in indices])
        found[indices] = torch.stack([logp_N.sum() for logp_N in each]).cpu()
    return found


@torch.no_grad()
def search_answers(
    memory: MemoryLayer, prompt: Sequence[int], stops: set[int | None], num: int
) -> list[list[int]]:
    """The likeliest continuations of a prompt that end with one of `stops`, by beam search; without
    the stop.
    """
    device = memory.values.device
    tokens_BT = torch.tensor([list(prompt)], device=device)
    u_BTD, state = memory.encode(tokens_BT, torch.zeros_like(tokens_BT), None, True)
    live: list[tuple[list[int], float]] = [([], 0.0)]
    done: list[tuple[list[int], float]] = []
    for _ in range(MAX_TOKENS):
        logp_BV = log_probabilities(memory.predict(memory.read_at(u_BTD[:, -1]).y))
        scores_BV = logp_BV + torch.tensor([score for _, score in live], device=device)[:, None]
        best = scores_BV.flatten().topk(min(2 * num, scores_BV.numel()))
        rows: list[int] = []
        kept: list[tuple[list[int], float]] = []
        for score, at in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row, token = divmod(at, logp_BV.shape[1])
            if token in stops:
                if all(tokens != live[row][0] for tokens, _ in done):
                    done.append((live[row][0], score))
            elif len(kept) < num:
                rows.append(row)
                kept.append(([*live[row][0], token], score))
        done = sorted(done, key=lambda one: -one[1])[:num]
        live = kept
        if not live or (len(done) == num and done[-1][1] > live[0][1]):
            break
        last_B1 = torch.tensor([[tokens[-1]] for tokens, _ in live], device=device)
        state = state.select(torch.tensor(rows, device=device))
        u_BTD, state = memory.encode(last_B1, torch.zeros_like(last_B1), state, True)
    return [tokens for tokens, _ in done if tokens]
