"""MEMIT and AlphaEdit: associations written into weights of MLPs in closed form.

What `teach_real` compares teaching with. Written from the papers, for decoders of transformers
whose layers end in `mlp.down_proj`. An MLP's last matrix W is taken for a linear memory, W k, whose
keys k are its inputs at the last token of a subject:

    values     of each edit, by gradient steps: the state after the last edited layer, at the
               subject's last token, with which the model gives the wanted answer
    MEMIT      dW = R K' (lambda C + K K')^-1, layer by layer; R: what is missing to the values,
               shared out over the layers that are left; C: second moments of keys of other text
    AlphaEdit  dW = R K' P (K K' P + ridge)^-1; P: onto the directions in which keys of other text
               hardly move

Sources: MEMIT, arXiv 2210.07229, section 4; ROME, arXiv 2202.05262, section 3.1 (values and
contexts); AlphaEdit, arXiv 2410.02355, section 3.

Shapes: E edits, R rows (prompts of one edit, one of each context), T tokens, P of them before the
subject's last one, I inner width of an MLP, H hidden size, V token ids.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Model = Any  # a causal LM of transformers
Closed = Callable[[int, Tensor, Tensor], Tensor]  # layer, keys (I, E), missing (H, E) -> (H, I)
ALIKE = 8  # edits whose keys are read at a time


@dataclass(frozen=True)
class Settings:
    """Of both methods; the papers' for models of 30 layers, where they give some.

    Attributes:
        layers: that are edited, in order.
        steps, lr: of Adam on a value.
        kl, decay: weights of the divergence on what the subject is, and of the value's change.
        clamp: longest change of a value, over its length.
        enough: loss at which a value is left as it is.
    """

    layers: tuple[int, ...] = (4, 5, 6, 7, 8)
    steps: int = 25
    lr: float = 0.5
    kl: float = 0.0625
    decay: float = 1e-3
    clamp: float = 4.0
    enough: float = 0.05


@dataclass(frozen=True)
class Row:
    """A prompt of an edit.

    Attributes:
        tokens: the prompt.
        last: where in it the subject's last token is.
        answer: tokens that are wanted after it; none: what it says has to stay.
    """

    tokens: tuple[int, ...]
    last: int
    answer: tuple[int, ...] = ()


@dataclass(frozen=True)
class Edit:
    """One edit: its prompt as it is, in some contexts, and one about what the subject is."""

    rows: tuple[Row, ...]
    about: Row


@contextmanager
def only_layers(model: Model, some: slice) -> Iterator[None]:
    """The decoder with these layers alone."""
    whole = model.model.layers
    model.model.layers = whole[some]
    try:
        yield
    finally:
        model.model.layers = whole


@contextmanager
def seen(module: nn.Module, inputs: bool) -> Iterator[list[Tensor]]:
    """What goes into a module, or comes out of it, in each call of the block."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        found.append(args[0] if inputs else output[0] if isinstance(output, tuple) else output)

    handle = module.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def padded(rows: Sequence[Sequence[int]], left: bool) -> tuple[Tensor, Tensor]:
    """Tokens and mask, (R, T), padded at the left or at the right."""
    size = max(map(len, rows))
    tokens_RT, mask_RT = torch.zeros(2, len(rows), size, dtype=torch.long)
    for i, row in enumerate(rows):
        some = slice(size - len(row), size) if left else slice(len(row))
        tokens_RT[i, some] = torch.tensor(row)
        mask_RT[i, some] = 1
    return tokens_RT, mask_RT


class Value:
    """The value of one edit, found by gradient steps on what follows the subject's last token.

    What precedes that token is read once and kept as keys and values of the attention; so are the
    states below the last edited layer.
    """

    def __init__(self, model: Model, edit: Edit, settings: Settings) -> None:
        self._model, self._settings = model, settings
        rows = (*edit.rows, edit.about)
        self._rows = rows
        before_RP, mask_RP = padded([row.tokens[: row.last] for row in rows], left=True)
        tails = [(*row.tokens[row.last :], *row.answer[:-1]) for row in rows]
        tail_RT, mask_RT = padded(tails, left=False)
        self._mask = torch.cat([mask_RP, mask_RT], 1)
        places = (self._mask.cumsum(1) - 1).clamp_min(0)
        self._places_RT = places[:, before_RP.shape[1] :]
        with torch.no_grad():
            self._cache = model.model(
                input_ids=before_RP,
                attention_mask=mask_RP,
                position_ids=places[:, : before_RP.shape[1]],
                use_cache=True,
            ).past_key_values
            with seen(model.model.layers[settings.layers[-1]], inputs=False) as states:
                hidden_RTH = self._upwards(slice(None), input_ids=tail_RT)
            self._states_RTH = states[0]
            self.start_H = self._states_RTH[0, 0]
            self._about_V = self._logp(hidden_RTH)[1]

    def _upwards(self, layers: slice, **inputs: Tensor) -> Tensor:
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        with only_layers(self._model, layers):
            hidden: Tensor = self._model.model(
                attention_mask=self._mask,
                position_ids=self._places_RT,
                past_key_values=cache,
                use_cache=True,
                **inputs,
            ).last_hidden_state
        return hidden

    def _logp(self, hidden_RTH: Tensor) -> tuple[Tensor, Tensor]:
        """Mean log probability of the answer over contexts and tokens; of all tokens after what the
        subject is.
        """
        matrix = self._model.get_output_embeddings().weight
        *edits, about = self._rows
        means = []
        for i, row in enumerate(edits):
            first = len(row.tokens) - 1 - row.last
            logits_LV = hidden_RTH[i, first : first + len(row.answer)] @ matrix.T
            means.append(-F.cross_entropy(logits_LV, torch.tensor(row.answer)))
        last_H = hidden_RTH[-1, len(about.tokens) - 1 - about.last]
        return torch.stack(means).mean(), (last_H @ matrix.T).log_softmax(-1)

    def found(self) -> tuple[Tensor, float]:
        """The value (H,), and the loss of the answer that is left."""
        settings, length = self._settings, self.start_H.norm()
        delta_H = torch.zeros_like(self.start_H, requires_grad=True)
        adam = torch.optim.Adam([delta_H], lr=settings.lr)
        left = float("inf")
        for step in range(settings.steps + 1):
            states_RTH = self._states_RTH.clone()
            states_RTH[:, 0] += delta_H
            hidden_RTH = self._upwards(
                slice(settings.layers[-1] + 1, None), inputs_embeds=states_RTH
            )
            logp, about_V = self._logp(hidden_RTH)
            left = -float(logp.detach())
            kl = (about_V.exp() * (about_V - self._about_V)).sum()
            loss = -logp + settings.kl * kl + settings.decay * delta_H.norm() / length**2
            if float(loss.detach()) < settings.enough or step == settings.steps:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                delta_H *= (settings.clamp * length / delta_H.norm()).clamp_max(1.0)
        return (self.start_H + delta_H).detach(), left


def wanted_values(
    model: Model, edits: Sequence[Edit], settings: Settings
) -> tuple[Tensor, list[float]]:
    """The values of all edits, (E, H), and the losses that are left. The model keeps its weights,
    and gets no gradient.
    """
    grads = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        found = [Value(model, edit, settings).found() for edit in edits]
    finally:
        for parameter, grad in zip(model.parameters(), grads, strict=True):
            parameter.requires_grad_(grad)
    return torch.stack([value for value, _ in found]), [left for _, left in found]


@torch.no_grad()
def second_moments(
    model: Model, windows_NT: Tensor, layers: Sequence[int], at_a_time: int = 16
) -> dict[int, Tensor]:
    """E[k k'] (I, I) of the keys of each layer, over all positions of these windows."""
    sums: dict[int, Tensor] = {}
    with only_layers(model, slice(max(layers) + 1)):
        for some_NT in windows_NT.split(at_a_time):
            for layer, keys in _keys_of(model, layers, input_ids=some_NT).items():
                keys_MI = keys.flatten(0, 1)
                sums[layer] = sums.get(layer, 0) + keys_MI.T @ keys_MI
    return {layer: total / windows_NT.numel() for layer, total in sums.items()}


def _keys_of(model: Model, layers: Sequence[int], **inputs: Tensor) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    handles = [
        model.model.layers[layer].mlp.down_proj.register_forward_hook(
            lambda _module, args, _output, layer=layer: found.__setitem__(layer, args[0])
        )
        for layer in layers
    ]
    try:
        model.model(use_cache=False, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def keys_and_states(
    model: Model, edits: Sequence[Edit], layer: int, last_layer: int
) -> tuple[Tensor, Tensor]:
    """Of each edit its key at a layer (E, I), half of it that of the bare prompt and half the mean
    of the contexts', and the bare prompt's state after the last edited layer (E, H).
    """
    all_keys: list[Tensor] = []
    all_states: list[Tensor] = []
    for start in range(0, len(edits), ALIKE):
        some = edits[start : start + ALIKE]
        rows = [row for edit in some for row in edit.rows]
        tokens_RT, mask_RT = padded([row.tokens[: row.last + 1] for row in rows], left=False)
        at_R = torch.tensor([row.last for row in rows])
        with (
            only_layers(model, slice(last_layer + 1)),
            seen(model.model.layers[layer].mlp.down_proj, inputs=True) as keys,
            seen(model.model.layers[last_layer], inputs=False) as states,
        ):
            model.model(input_ids=tokens_RT, attention_mask=mask_RT, use_cache=False)
        num = torch.arange(len(rows))
        for found, kept in ((keys, all_keys), (states, all_states)):
            of_rows = found[0][num, at_R].view(len(some), -1, found[0].shape[-1])
            kept.append(of_rows)
    keys_ERI, states_ERH = torch.cat(all_keys), torch.cat(all_states)
    others = keys_ERI[:, 1:].mean(1) if keys_ERI.shape[1] > 1 else keys_ERI[:, 0]
    return (keys_ERI[:, 0] + others) / 2, states_ERH[:, 0]


@torch.no_grad()
def write_edits(
    model: Model, edits: Sequence[Edit], values_EH: Tensor, settings: Settings, closed: Closed
) -> None:
    """Changes the edited layers' last matrices, one after the other."""
    for at, layer in enumerate(settings.layers):
        keys_EI, states_EH = keys_and_states(model, edits, layer, settings.layers[-1])
        missing_EH = (values_EH - states_EH) / (len(settings.layers) - at)
        change_HI = closed(layer, keys_EI.double().T, missing_EH.double().T)
        weight = model.model.layers[layer].mlp.down_proj.weight
        weight += change_HI.to(weight.dtype)


def memit(moments: Mapping[int, Tensor], weight: float) -> Closed:
    """MEMIT's closed form (equation 14); `weight`: lambda, of the second moments of other text."""

    def closed(layer: int, keys_IE: Tensor, missing_HE: Tensor) -> Tensor:
        system_II = weight * moments[layer].double() + keys_IE @ keys_IE.T
        return torch.linalg.solve(system_II, keys_IE @ missing_HE.T).T

    return closed


def alphaedit(moments: Mapping[int, Tensor], share: float, ridge: float) -> Closed:
    """AlphaEdit's closed form (equation 14 for the first edits).

    Args:
        moments: second moments of keys of other text.
        share: of their mean eigenvalue, below which a direction counts as free.
        ridge: that the system is regularised with.
    """

    def closed(layer: int, keys_IE: Tensor, missing_HE: Tensor) -> Tensor:
        sizes_I, directions_II = torch.linalg.eigh(moments[layer].double())
        free = directions_II[:, sizes_I < share * sizes_I.mean()]
        projected_IE = free @ (free.T @ keys_IE)
        system_II = projected_IE @ keys_IE.T + ridge * torch.eye(len(sizes_I)).double()
        return torch.linalg.solve(system_II, projected_IE @ missing_HE.T).T

    return closed
