"""What `tandem check` says of the weights that a run starts from, and of the CPU that it takes.

Sizes and tensors are looked at by `actors.weights.parameter_counts`. Called by `check`.
"""

from __future__ import annotations

from actors.corpus.corpus import build_tokenizer, train_tokenizer
from actors.machine.cpu_features import slow_bf16
from actors.settings.run import GROUPS
from actors.weights.starting_weights import check_tokens
from jobs.check.resources import AvailableResources
from orchestrator.settings.config import Config

SAMPLE_BYTES = 1 << 20  # of text: a tokenizer trained here has other ids than any that was given


def check_starting_tokens(config: Config) -> None:
    """Raises: ConfigError where the weights that the run starts from know other token ids."""
    if config.data.layer.pretrained is None and config.memory.layer.start_from is None:
        return
    given = config.tokenizer.pretrained is not None
    check_tokens(
        config, build_tokenizer(config) if given else train_tokenizer(config, SAMPLE_BYTES)
    )


def cpu_warnings(config: Config, machine: AvailableResources) -> list[str]:
    """What this machine's CPU is slow at; of a cluster's, the run says it when workers start."""
    if not machine.is_here:
        return []
    groups = ((name, config.group(name)) for name in GROUPS)
    found = [slow_bf16(name, group.precision, group.workers.gpus) for name, group in groups]
    return [warning for warning in found if warning is not None]
