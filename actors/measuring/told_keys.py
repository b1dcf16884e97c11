"""The keys of what is told, and the reads that are wanted there.

    prompt, answer -> tokens in every wording, refused where they can't be told
                   -> keys: what the memory reads at each answer position
                   -> wanted reads, by gradient steps on the reads alone

Changes no weight and no write. Called by `pair.telling`.

Shapes: B sequences, T tokens, N keys, L of them not yet as wanted, E slots of a key, D d_m, V token
ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers.kept_reads import number_of
from actors.layers.memory_layer import MemoryLayer
from actors.layers.named_writes import LEEWAY, UNSURE_AT, Association
from actors.layers.predicted import entropy, log_probabilities
from actors.measuring.probing import answer_tokens, pad_right, prompt_tokens
from actors.measuring.subjects import Subject, subject_of
from actors.operators.closed_form import SparseReads
from actors.operators.numerals import Numerals
from actors.operators.parts import parts_of, positions_at_once
from actors.operators.token_bags import last_tokens
from actors.sources.chats import read_chat
from actors.tokenizers.tokenizer import Tokenizer

STEPS = 60  # gradient steps on a read, at most
RATE, BETAS = 0.1, (0.9, 0.99)  # of Adam; the rate is a share of the reads' standard deviation
NEARNESS = 0.01  # μ: a wanted read stays near the one it was
SURE = 0.9  # probability of the answer's token at which a read is as wanted
LIKELY = 0.5  # probability of a token from which the memory takes it for so
PASS_TOKENS = 4096  # of a forward pass


@dataclass(frozen=True)
class Located:
    """Where the memory reads what is told: the keys without wanted reads, their encodings, and the
    last tokens up to each (N, C).
    """

    reads: SparseReads
    u_ND: Tensor
    said_NC: Tensor
    targets_N: Tensor
    prompts_N: Tensor


def sequences(
    tokenizer: Tokenizer, associations: Sequence[Association], longest: int | None = None
) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer tokens of each association in each wording, the end mark included.

    Raises:
        ValueError: nothing was told, a prompt or answer is empty or too long, or one prompt has
            two answers.
    """
    if not associations:
        raise ValueError("nothing to tell: give at least one prompt and answer")
    found: dict[tuple[int, ...], tuple[str, str, list[int]]] = {}
    for one in associations:
        for prompt in one.prompts:
            if not prompt.strip():
                raise ValueError(f"an empty prompt for the answer {one.answer!r}: say what asks it")
            tokens, answer = _written(tokenizer, one, prompt.rstrip())
            if not one.answer.strip(" ."):
                raise ValueError(f"{prompt!r}: the answer {one.answer!r} holds no word")
            if longest is not None and len(tokens) + len(answer) > longest:
                raise ValueError(
                    f"{prompt[:60]!r} and its answer are {len(tokens)} and {len(answer)} tokens, "
                    f"the model reads at most {longest}; shorten the "
                    f"{'prompt' if len(tokens) > len(answer) else 'answer'}"
                )
            known = found.setdefault(tokens, (prompt, one.answer, answer))
            if known[2] != answer:
                raise ValueError(
                    f"{prompt!r} is told two answers at once, {known[1]!r} and {one.answer!r}; "
                    "tell one, or one after the other: the later one holds"
                )
    return [(list(tokens), answer) for tokens, (_, _, answer) in found.items()]


def _written(
    tokenizer: Tokenizer, one: Association, prompt: str
) -> tuple[tuple[int, ...], list[int]]:
    """Tokens of a prompt, and of the answer with what ends it."""
    if not one.as_chat:
        return (
            tuple(prompt_tokens(tokenizer, prompt)),
            [*answer_tokens(tokenizer, one.answer), *tokenizer.closing],
        )
    turns = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": f"{one.answer.strip().rstrip('.')}."},
    ]
    [piece] = tokenizer.chat.encode([read_chat(turns, None, lambda: "what is told")])[0]
    tokens = [int(token) for token in piece.tokens_T]
    first = int(piece.learn_T.argmax())
    rest = piece.learn_T[first:]
    stop = len(tokens) if rest.all() else first + int(rest.argmin())
    return tuple(tokens[:first]), tokens[first:stop]


def subjects_of(
    tokenizer: Tokenizer, told: Sequence[Association], numerals: Numerals
) -> dict[int, Subject]:
    """What each prompt is about, by the number that `locate` gives it."""
    found: dict[int, Subject] = {}
    for one in told:
        subject = subject_of(tokenizer, one.prompts, one.subject, numerals)
        for prompt in one.prompts:
            found[number_of(_written(tokenizer, one, prompt.rstrip())[0])] = subject
    return found


@torch.no_grad()
def locate(memory: MemoryLayer, told: Sequence[tuple[list[int], list[int]]]) -> Located:
    """What the memory reads at each answer position of these prompts and answers, in order."""
    device, width = memory.values.device, memory.reads_per_key
    slots, weights, u, said, targets, prompts = [], [], [], [], [], []
    longest = max(len(p) + len(a) for p, a in told)
    size = max(1, PASS_TOKENS // longest)
    for start in range(0, len(told), size):
        some = told[start : start + size]
        tokens_BT, segments_BT = pad_right([[*p, *a] for p, a in some], 0, device)
        where_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
        for row, (p, a) in enumerate(some):
            where_BT[row, len(p) - 1 : len(p) + len(a) - 1] = True
            targets += a
            prompts += [number_of(p)] * len(a)
        u_ND = memory.encode(tokens_BT, segments_BT)[0][where_BT]
        _, slots_NHK, weights_NHK = memory.addresses(u_ND)
        slots.append(slots_NHK.reshape(-1, width).cpu())
        weights.append(weights_NHK.reshape(-1, width).float().cpu())
        u.append(u_ND)
        said.append(last_tokens(tokens_BT, segments_BT)[where_BT])
    return Located(
        SparseReads(torch.cat(slots), torch.cat(weights)),
        torch.cat(u),
        torch.cat(said),
        torch.tensor(targets),
        torch.tensor(prompts),
    )


def wanted_reads(memory: MemoryLayer, m_ND: Tensor, u_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Sums of rows near `m_ND` from which the memory says the targets, (N, D).

    Those that say them surely already stay as they are; the others move until they do.
    In pieces of positions, so that no logits of all of them stand at once.
    """
    wanted_ND = m_ND.clone()
    for some in parts_of(len(m_ND), positions_at_once(memory.num_tokens, m_ND.device)):
        wanted_ND[some] = _wanted(memory, m_ND[some], u_ND[some], targets_N[some])
    return wanted_ND


@torch.no_grad()
def says(
    memory: MemoryLayer, m_ND: Tensor, u_ND: Tensor, targets_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether the memory's likeliest token at these sums of rows is the target, (N,) bool, and the
    entropy of what it predicts there, (N,), nats.
    """
    right, entropies = [], []
    for some, logq_NV in _predictions(memory, m_ND, u_ND):
        right.append(logq_NV.argmax(-1) == targets_N[some])
        entropies.append(entropy(logq_NV))
    return torch.cat(right), torch.cat(entropies)


@torch.no_grad()
def sure_tokens(memory: MemoryLayer, m_ND: Tensor, u_ND: Tensor) -> Tensor:
    """The token that the memory says at these sums of rows, (N,); -1 where it is not sure."""
    found = []
    for _, logq_NV in _predictions(memory, m_ND, u_ND):
        most_N, token_N = logq_NV.max(-1)
        found.append(torch.where(most_N.exp() > LIKELY, token_N, -1))
    return torch.cat(found)


def _predictions(memory: MemoryLayer, m_ND: Tensor, u_ND: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """What the memory predicts at these sums of rows, log probabilities, part by part."""
    for some in parts_of(len(m_ND), positions_at_once(memory.num_tokens, m_ND.device)):
        yield some, log_probabilities(memory.predict(memory.gated(m_ND[some], u_ND[some])))


def unsure_tokens(targets_N: Tensor, entropy_N: Tensor) -> dict[int, float]:
    """Tokens at which the memory's entropy, nats, is too high to be trusted like others, and the
    highest of each.
    """
    least = UNSURE_AT / LEEWAY
    found: dict[int, float] = {}
    for token, nats in zip(targets_N.tolist(), entropy_N.tolist(), strict=True):
        if nats > least:
            found[token] = max(nats, found.get(token, 0.0))
    return found


def _wanted(memory: MemoryLayer, m_ND: Tensor, u_ND: Tensor, targets_N: Tensor) -> Tensor:
    """By Adam, each position until it is sure."""
    out_ND, live_L = m_ND.clone(), torch.arange(len(m_ND), device=m_ND.device)
    near_N1 = NEARNESS / m_ND.square().sum(-1, keepdim=True).clamp_min(1e-12)
    rate = RATE * float(m_ND.std()) if len(m_ND) > 1 else RATE
    first_ND, second_ND = torch.zeros_like(m_ND), torch.zeros_like(m_ND)
    for step in range(1, STEPS + 1):
        at_LD = out_ND[live_L].requires_grad_(True)
        with torch.enable_grad():
            logits_LV = memory.predict(memory.gated(at_LD, u_ND[live_L])).float()
            loss_L = F.cross_entropy(logits_LV, targets_N[live_L], reduction="none")
            moved_L = (near_N1[live_L] * (at_LD - m_ND[live_L]).square()).sum(-1)
            (gradient_LD,) = torch.autograd.grad((loss_L + moved_L).sum(), at_LD)
        unsure_L = loss_L.detach().exp() > 1 / SURE
        live_L, gradient_LD = live_L[unsure_L], gradient_LD[unsure_L]
        if not len(live_L):
            break
        first_ND[live_L] = BETAS[0] * first_ND[live_L] + (1 - BETAS[0]) * gradient_LD
        second_ND[live_L] = BETAS[1] * second_ND[live_L] + (1 - BETAS[1]) * gradient_LD.square()
        up_LD = first_ND[live_L] / (1 - BETAS[0] ** step)
        down_LD = (second_ND[live_L] / (1 - BETAS[1] ** step)).sqrt() + 1e-12
        out_ND[live_L] -= rate * up_LD / down_LD
    return out_ND.detach()
