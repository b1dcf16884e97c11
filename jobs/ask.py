"""`tandem ask`: the three voices of a finished run side by side, by token with λ on request."""

from __future__ import annotations

from statistics import mean

from rich.table import Table

from actors.wire import ConfigError
from orchestrator.console import Console
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.run_dir.run_dir import find_export

NOTHING = "(nothing)"  # a voice ended at once, or said spaces only
HEADINGS = {"own": "data layer alone", "help": "with memory", "memory": "memory alone"}


def run_ask(run: str, prompt: str, console: Console, by_token: bool, max_tokens: int) -> None:
    """Prints the greedy continuation of `prompt` by each voice.

    Raises:
        ConfigError: no run there, or no finished export; a prompt that is not UTF-8.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as err:  # the shell passed bytes of another encoding
        raise ConfigError(
            f"prompt {prompt!a}: expected UTF-8, got other bytes; set the terminal to UTF-8"
        ) from err
    export = find_export(run)
    from actors.measuring.probing import decode_greedily, prompt_tokens
    from actors.measuring.voices import VOICES
    from actors.weights.pair_export import load_pair

    with TaskProgress() as progress:
        progress("loading the pair")
        pair, tokenizer = load_pair(export, progress)
        prompts = [prompt_tokens(tokenizer, prompt)]
        continued = {}
        for number, voice in enumerate(VOICES):
            progress("answering", number, len(VOICES))
            (continued[voice],) = decode_greedily(pair, voice, prompts, tokenizer.ends, max_tokens)
    if not by_token:
        table = Table(title=prompt, title_justify="left")
        for voice in VOICES:
            table.add_column(HEADINGS[voice], overflow="fold")
        table.add_row(*(tokenizer.decode(continued[v].tokens).strip() or NOTHING for v in VOICES))
        console.print(table)
        both = continued["help"]
        if both.freshness:
            console.say(
                f"with memory: λ {mean(both.mixing):.2f}, fresh {mean(both.freshness):.2f} (how "
                "far what was told opened it; means over the answer's tokens)"
            )
        return
    fresh = continued["help"].freshness
    told = "; fresh: how far what was told opened it" if fresh else ""
    table = Table(
        title=f"{prompt}   (token, its probability; λ is the memory's share of the mixture{told})",
        title_justify="left",
    )
    of_both = (HEADINGS["help"], "p", "λ", *(("fresh",) if fresh else ()))
    for heading in (HEADINGS["own"], "p", *of_both, HEADINGS["memory"], "p"):
        table.add_column(heading, overflow="fold")
    for at in range(max(len(t.tokens) for t in continued.values())):
        cells = []
        for voice in VOICES:
            answer = continued[voice]
            is_token = at < len(answer.tokens)
            cells += (
                [
                    repr(tokenizer.decode([answer.tokens[at]]))[1:-1],
                    f"{answer.probabilities[at]:.2f}",
                ]
                if is_token
                else ["", ""]
            )
            if voice == "help":
                cells.append(f"{answer.mixing[at]:.2f}" if is_token else "")
                if fresh:
                    cells.append(f"{fresh[at]:.2f}" if is_token else "")
        table.add_row(*cells)
    console.print(table)
