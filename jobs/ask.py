"""Asks a finished run: the three voices side by side, token by token with λ on request."""

from __future__ import annotations

from rich.table import Table

from actors.wire import ConfigError
from orchestrator.console import Console
from orchestrator.run_dir.run_dir import find_export

NAMES = {"own": "data layer alone", "help": "with memory", "memory": "memory alone"}


def run_ask(run: str, prompt: str, console: Console, by_token: bool, max_tokens: int) -> None:
    """Prints what each voice says after `prompt`, greedily.

    Raises:
        ConfigError: no run there, or one without a finished export; a prompt that is no text.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as err:  # the shell passed bytes of another encoding
        raise ConfigError(
            f"prompt {prompt!a}: expected UTF-8, got other bytes; set the terminal to UTF-8"
        ) from err
    export = find_export(run)
    from actors.measuring.probing import VOICES, decode_greedily, prompt_tokens
    from actors.weights.pair_files import load

    pair, tokenizer = load(export)
    prompts = [prompt_tokens(tokenizer, prompt)]
    told = {v: decode_greedily(pair, v, prompts, tokenizer.end, max_tokens)[0] for v in VOICES}
    if not by_token:
        table = Table(title=prompt, title_justify="left")
        for voice in VOICES:
            table.add_column(NAMES[voice], overflow="fold")
        table.add_row(*(tokenizer.decode(told[v].tokens).strip() for v in VOICES))
        console.print(table)
        return
    table = Table(
        title=f"{prompt}   (token, its probability; λ is the memory's share of the mixture)",
        title_justify="left",
    )
    for heading in (NAMES["own"], "p", NAMES["help"], "p", "λ", NAMES["memory"], "p"):
        table.add_column(heading, overflow="fold")
    for at in range(max(len(t.tokens) for t in told.values())):
        cells = []
        for voice in VOICES:
            said = told[voice]
            there = at < len(said.tokens)
            cells += (
                [repr(tokenizer.decode([said.tokens[at]]))[1:-1], f"{said.probabilities[at]:.2f}"]
                if there
                else ["", ""]
            )
            if voice == "help":
                cells.append(f"{said.mixing[at]:.2f}" if there else "")
        table.add_row(*cells)
    console.print(table)
