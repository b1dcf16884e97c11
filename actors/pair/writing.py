"""Documents that the memory writes by itself: from the mark that opens a document, token by token.

They stand in for the corpus where a layer must not forget while it learns something new, so that
nothing of the corpus is needed then. Their draws are spread (`drawing`), so that little of what the
memory knows is missed, and a document does not depend on how many are written at a time. Reads no
data layer. A memory that has learned answers alone (`losses.given` of 0 with masked prompts) writes
scraps: give it openings.

Shapes: B documents, T tokens, V token ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from actors.corpus.windows import Piece
from actors.layers.memory_layer import MemoryLayer
from actors.machine.progress import Progress, unseen
from actors.pair.drawing import Draws
from actors.tokenizers.tokenizer import Tokenizer

AT_A_TIME = 512  # documents that are written together
WINDOWS = 4  # of a document at most
WRITES = "the memory writes: windows, at most"  # the stage that `progress` sees


@torch.no_grad()
def write_documents(
    memory: MemoryLayer,
    tokenizer: Tokenizer,
    num: int,
    seed: int,
    window: int,
    openings: Sequence[Sequence[int]] | None = None,
    *,
    temperature: float = 1.0,
    windows: int = WINDOWS,
    at_a_time: int = AT_A_TIME,
    progress: Progress = unseen,
) -> list[Piece]:
    """What the memory writes: `num` documents, less those that it leaves empty.

    A document ends with the closing mark, or is cut after `windows` windows. As in training, a
    window sees nothing of those before it, but for the token that the next one begins with.

    Args:
        memory: the memory layer.
        tokenizer: the run's.
        num: documents.
        seed: of the draws; document i depends on it and on i alone.
        window: tokens of a window, `corpus.window` of the run.
        openings: token ids, opening mark included, that document i continues, by turns; None: the
            opening mark alone.
        temperature: of the draws; 1: the memory's own distribution.
        windows: most windows of a document.
        at_a_time: documents that are written together.
        progress: sees how many windows are written or not needed.

    Returns:
        The documents with their marks; what an opening gave is not to be predicted.

    Raises:
        ValueError: an opening that is empty or fills a window.
    """
    nothing: Sequence[int] = tokenizer.opening or (tokenizer.end_of_text,)
    for opening in openings or ():
        if not 0 < len(opening) < window:
            raise ValueError(f"an opening has {len(opening)} tokens; expected 1 to {window - 1}")
    begun = [list(openings[i % len(openings)] if openings else nothing) for i in range(num)]
    rows, given = [list(row) for row in begun], [len(row) for row in begun]
    live = list(range(num))
    for at in range(windows):
        if at:  # the last token of the window before opens the next
            begun = [row[-1:] for row in rows]
        going_on = []
        for start in range(0, len(live), at_a_time):
            some = live[start : start + at_a_time]
            draws = Draws.of(
                "write", seed, some, window, memory.values.device,
                temperature=temperature, at=at, num_openings=len(openings) if openings else 1,
            )  # fmt: skip
            added = _continued(memory, [begun[i] for i in some], draws, window, tokenizer.end)
            for i, new in zip(some, added, strict=True):
                rows[i] += new
                if not new or new[-1] != tokenizer.end:
                    going_on.append(i)
            progress(WRITES, (at + 1) * num - len(live) + start + len(some), windows * num)
        live = going_on
    return [
        Piece(row, num_given if openings else 0)
        for row, num_given in zip(rows, given, strict=True)
        if openings or row[num_given:] != [tokenizer.end]
    ]


def _continued(
    memory: MemoryLayer,
    openings: Sequence[Sequence[int]],
    draws: Draws,
    window: int,
    end: int | None,
) -> list[list[int]]:
    """What follows each opening, up to and with `end`, or to the end of the window."""
    device = memory.values.device
    added: list[list[int]] = [[] for _ in openings]
    live = list(range(len(openings)))
    tokens_B1 = torch.tensor([[row[0]] for row in openings], device=device)
    num_given_B = torch.tensor([len(opening) for opening in openings], device=device)
    state = None
    for at in range(1, window):
        u_B1D, state = memory.encode(tokens_B1, torch.zeros_like(tokens_B1), state, True)
        logits_BV = memory.predict(memory.read_at(u_B1D[:, -1]).y)
        drawn = draws.take(logits_BV, at, at < num_given_B).tolist()
        still = []
        for row, index in enumerate(live):
            if at < len(openings[index]):
                drawn[row] = openings[index][at]
            else:
                added[index].append(drawn[row])
                if drawn[row] == end:
                    continue
            still.append(row)
        if not still:
            break
        if len(still) < len(live):
            kept = torch.tensor(still, device=device)
            state = state.select(kept)
            draws.select(kept)
            num_given_B = num_given_B[kept]
            live = [live[row] for row in still]
            drawn = [drawn[row] for row in still]
        tokens_B1 = torch.tensor(drawn, device=device)[:, None]
    return added
