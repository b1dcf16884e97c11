"""What of a model trains: all of it, parameters by name, or adapters that are added to it.

peft, an extra, is imported only where adapters are made or turned off. Knows neither files nor
memory.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from actors.layers.data_layer import output_embeddings
from actors.settings.layers import (
    LORA,
    LORA_INFIX,
    MODEL_PREFIX,
    DataLayerSpec,
    LoraSpec,
)
from actors.wire import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_NAME = "default"
NEAREST = 3  # names in a message


def prepare_trained_part(model: PreTrainedModel, layer: DataLayerSpec) -> None:
    """Adds adapters where the spec asks for them, and turns off gradients of what does not train.

    Raises:
        ConfigError: as `refuse_unknown_patterns` and `add_adapters`.
    """
    refuse_unknown_patterns(model, layer)
    if layer.train == LORA:
        add_adapters(model, layer.lora)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(layer.trains(f"{MODEL_PREFIX}{name}"))


def refuse_unknown_patterns(model: nn.Module, layer: DataLayerSpec) -> None:
    """Raises: ConfigError: a pattern of `data.layer.train` that no parameter has; names those that
    are most like it.
    """
    if isinstance(layer.train, str):
        return
    names = [name for name, _ in model.named_parameters()]
    for pattern in layer.train:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        where = f"data.layer.train: no parameter of {type(model).__name__} is named {pattern}"
        tied = [
            name
            for name, _ in model.named_parameters(remove_duplicate=False)
            if name not in names and fnmatchcase(name, pattern)
        ]
        if tied:
            tensors = dict(model.named_parameters(remove_duplicate=False))
            same = next(name for name in names if tensors[name] is tensors[tied[0]])
            raise ConfigError(f"{where} but {tied[0]}, which is tied to {same}; name that one")
        raise ConfigError(f"{where}; {_nearest(pattern, names)}")


def add_adapters(model: PreTrainedModel, lora: LoraSpec) -> None:
    """Adds low-rank adapters to linear modules, drawn from the global torch generator, in float32.

    Raises:
        ConfigError: peft is missing, or the model has no linear module of a name that was given.
    """
    require_peft("data.layer.train: lora")
    from peft import inject_adapter_in_model

    inject_adapter_in_model(lora_config(model, lora), model, adapter_name=ADAPTER_NAME)
    for name, parameter in model.named_parameters():
        if LORA_INFIX in name:
            parameter.data = parameter.data.to(torch.float32)


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """The model as it came in: its adapters add nothing, and nothing drops out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    trained = model.training
    model.eval()
    try:
        for module in adapted:
            module.enable_adapters(False)
        yield
    finally:
        for module in adapted:
            module.enable_adapters(True)
        model.train(trained)


def require_peft(what: str) -> None:
    """Raises: ConfigError: `what` needs peft, and it can't be imported."""
    try:
        import peft  # noqa: F401
    except ImportError as err:
        raise ConfigError(
            f"{what} needs the package peft, which can't be imported ({err}); install it with "
            "pip install 'tandem-memory[lora]'"
        ) from err


def lora_config(model: PreTrainedModel, lora: LoraSpec) -> Any:
    """peft's own config of these adapters. Raises: ConfigError as `add_adapters`."""
    from peft import LoraConfig

    linear = linear_modules(model)
    targets = list(lora.targets) or sorted({name.rpartition(".")[2] for name in linear})
    chosen: list[nn.Module] = []
    for target in targets:
        found = [m for name, m in linear.items() if f".{name}".endswith(f".{target}")]
        if not found:
            raise ConfigError(
                f"data.layer.lora.targets: {type(model).__name__} has no linear module named "
                f"{target}; {_nearest(target, sorted({n.rpartition('.')[2] for n in linear}))}"
            )
        chosen += found
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a factor of any size
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=not all(isinstance(module, nn.Linear) for module in chosen),
        bias="none",
        task_type="CAUSAL_LM",
    )


def linear_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The model's linear modules by name, without its output matrix."""
    from transformers.pytorch_utils import Conv1D

    head = output_embeddings(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def _nearest(wanted: str, names: Sequence[str]) -> str:
    plain = wanted.replace("*", "")
    close = difflib.get_close_matches(plain, names, n=NEAREST, cutoff=0.0)
    return f"nearest: {', '.join(close)}"
