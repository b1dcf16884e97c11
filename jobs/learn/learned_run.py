"""Writes the result of `tandem learn`: a directory that can be read like a run's.

Config and corpus are those of the run that learned, so that evaluating the directory shows what it
kept of them; what was learned is in `learned.json` and in the report. There are no checkpoints and
no metrics: it can't be resumed.
"""

from __future__ import annotations

from typing import Any

from actors.corpus.windows import Windows
from actors.layers.pair import Pair
from actors.pair.export_check import export_checked
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import Layer, flatten
from orchestrator.loop.schedule import AGREEMENT_TOLERANCE, HARDLY, LOW_AGREEMENT, YES, verdict
from orchestrator.reporting.learn_report import learned_page
from orchestrator.reporting.summary import unchanged
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.settings.config import Config
from orchestrator.settings.file_names import CONFIG, EXPORT, REPORT, SUMMARY, TOKENIZER

LEARNED = "learned.json"


def write_result(
    out: RunDir,
    config: Config,
    pair: Pair,
    tokenizer: Tokenizer,
    learned: dict[str, Any],
    before: dict[str, Any],
    heldout: Windows,
) -> None:
    """Writes everything, the summary last.

    Args:
        out: directory of the result.
        config: the run's, with the name and storage of `out`.
        pair, tokenizer: to export.
        learned: figures of what was learned and lost.
        before: the summary of the run that learned.
        heldout: windows on which the export is checked.

    Raises:
        ExportError: the export differs from the pair; only config and tokenizer were written.
    """
    out.write(CONFIG, config.to_yaml(config.run_url))
    out.write(TOKENIZER, tokenizer.to_json())
    export_checked(config, tokenizer, pair, out.path(EXPORT), heldout)
    out.write_json(LEARNED, learned)
    out.write(REPORT, learned_page(learned))
    layers: dict[str, Layer] = {"data": pair.data, "memory": pair.memory}
    digests = {name: flatten(layer, pair.data.base).digest() for name, layer in layers.items()}
    out.write_json(SUMMARY, _summary(config, learned, before, digests))


def _summary(
    config: Config, learned: dict[str, Any], before: dict[str, Any], digests: dict[str, str]
) -> dict[str, Any]:
    after = learned["old"]["after"]
    agreed = after["heldout"]["recall_agreement"]
    agreed_before = learned["old"]["before"]["heldout"]["recall_agreement"]
    kept_up = (
        before["status"] == RunStatus.FINISHED and agreed >= agreed_before - AGREEMENT_TOLERANCE
    )
    found = verdict(kept_up, agreed)
    low = f", {LOW_AGREEMENT}" if found == HARDLY else ""
    summary: dict[str, Any] = {
        "status": RunStatus.FINISHED if kept_up else RunStatus.UNREFLECTED,
        "name": config.name,
        "seed": config.seed,
        "learned_from": learned["run"],
        "wall_s": learned["seconds"],
        "reflects_final": found == YES,
        "reflects_final_verdict": found,
        "final_agreement": agreed,
        "reflects_final_reason": (
            f"agreement on the run's held-out text {agreed:.4f} after learning, "
            f"{agreed_before:.4f} before it{low}"
        ),
        "heldout": {**after["heldout"], "reflection_rate": None, "reflection_probes": 0},
        "digest": digests,
    }
    if config.data.layer.keeps_model:
        summary |= unchanged(after["heldout"])
    if after["accuracy"]:
        summary |= {name: after[name] for name in ("accuracy", "accuracy_seen", "num_probes")}
    return summary
