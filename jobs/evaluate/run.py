"""`tandem evaluate`: recomputes a run's held-out figures from its exports alone.

Shows that the exports are what the run reports.
"""

from __future__ import annotations

import json
from typing import Any

from actors.sources.corpus_files import CorpusMarks
from jobs.train import print_summary
from orchestrator.console import Console
from orchestrator.reporting.summary import SOMETIMES
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.corpus_record import changes_of_corpus
from orchestrator.run_dir.run_dir import RunDir, find_export
from orchestrator.run_dir.saved_config import saved_config
from orchestrator.settings.file_names import SUMMARY, TOKENIZER

# Known to the run only, not from its exports; runs of earlier versions lack them.
FROM_THE_RUN = ("reflects_final_verdict", "final_agreement", "before")


def run_evaluation(run: str, console: Console, as_json: bool) -> dict[str, Any]:
    """Loads the exports, measures as the run's last evaluation, prints and returns the figures.

    Raises:
        ConfigError: not a run, or its exports are incomplete.
    """
    export, run_dir = find_export(run), RunDir(run)
    summary = json.loads(run_dir.read(SUMMARY))
    config = saved_config(run_dir)
    tokenizer_json = run_dir.read(TOKENIZER)
    changes = changes_of_corpus(run_dir, CorpusMarks.of(config.corpus)) or []
    from actors.pair.evaluator import Evaluator
    from actors.weights.pair_export import load_pair

    with TaskProgress() as progress:
        progress("loading the pair")
        pair, _ = load_pair(export, progress)
        progress("reading the corpus")
        evaluator = Evaluator(config, tokenizer_json, pair, progress=progress)
        found = evaluator.measure((config.intervals, config.intervals), final=True)
        progress("digests of both layers")
        digests = evaluator.digests()
    wanted = (*summary["heldout"], *SOMETIMES)
    figures = {name: found.figures[name] for name in wanted if name in found.figures}
    result: dict[str, Any] = {
        "heldout": figures,
        "accuracy": found.accuracy,
        "accuracy_seen": found.accuracy_seen,
        "num_probes": found.num_probes,
        "digest": digests,
        "reflects_final": summary["reflects_final"],
        "reflects_final_reason": summary["reflects_final_reason"],
        **{name: summary[name] for name in FROM_THE_RUN if name in summary},
    }
    if not found.accuracy:
        del result["accuracy"], result["accuracy_seen"]
    if changes:
        result["corpus_changes"] = changes
    if as_json:
        console.print_json(json.dumps(result))
    else:
        if changes:
            console.say(
                f"warning: the run's corpus has changed: {'; '.join(changes)}; these figures may "
                "be of text that the run trained on",
                style="yellow",
            )
        print_summary(result, console)
    return result
