"""Trains a small model with a memory from Python, loads it and asks it. Half a minute.

    python examples/python_api.py [FOLDER]      # FOLDER takes the run; default: runs

The facts are those of own_facts.yaml, with fewer steps. It trains in this process, as a notebook
would; without `in_process` both layers train side by side, in processes of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tandem import Console, RunResult, TandemModel, load, load_config, train

HERE = Path(__file__).resolve().parent
CHANGES = ("name=python-api", "intervals=5", "evaluation.every=0", "evaluation.final_probes=60")


def train_it(storage: str) -> RunResult:
    """Trains both layers; the result holds the run's folder and its summary."""
    config = load_config(str(HERE / "own_facts.yaml"), [*CHANGES, f"storage={storage}"])
    return train(config, Console(), in_process=True)


def ask_it(model: TandemModel, question: str) -> dict[str, str]:
    """The answer of both together, of the model alone, and of the memory alone."""
    answers = {voice: model.ask(question, voice=voice) for voice in ("help", "own", "memory")}
    with model.memory_off():  # another way to ask the model alone
        assert model.ask(question) == answers["own"]
    return answers


def memory_share(model: TandemModel, text: str) -> float:
    """λ after the text: how much of the next token's distribution is the memory's."""
    inputs = model.tokenizer([text], return_tensors="pt")
    with torch.no_grad():
        return float(model(**inputs).mixing[0, -1])


def main(storage: str) -> None:
    """All of it, in order."""
    result = train_it(storage)
    print(f"{result.status}: {result.path}")
    print("answers right in wordings never trained on:", result.summary["accuracy"])
    model = load(result.path)
    question = "The office of Ada Abbott is"
    for voice, answer in ask_it(model, question).items():
        print(f"{question} … {voice:6} {answer}")
    print(f"the memory's share of the next token: {memory_share(model, question):.2f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs")
