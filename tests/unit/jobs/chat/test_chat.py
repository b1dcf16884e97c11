"""A conversation with an exported pair: turns, voices, λ, what is told; read from what is shown."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.pair.conversation import conversation_ids, prompt_ids
from actors.pair.speech import SpeechOptions, shares_of, speak
from actors.pair.tandem_model import TandemModel, load_tandem_model
from actors.wire import ConfigError
from jobs.chat.chat import ChatOptions, run_chat
from jobs.cli import app
from orchestrator.console import CONTROLS, Console
from tests.unit.jobs.tell.exported import tellable

PROMPT = "The capital of Avaria is"
TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tellable(tmp_path_factory.mktemp("chat") / "tiny")


@pytest.fixture(scope="module")
def model(export: Path) -> TandemModel:
    return load_tandem_model(str(export))


def talk(export: Path, *lines: str, **options: object) -> list[str]:
    """What is shown, after the greeting."""
    shown = io.StringIO()
    given = ChatOptions(**{"max_tokens": 8, **options})  # type: ignore[arg-type]
    run_chat(str(export), given, Console(file=shown, width=500), lambda: iter(lines))
    text = shown.getvalue().splitlines()
    assert text[0].startswith(f"{export}: ")
    return text[1:]


def answer(model: TandemModel, ids: list[int], voice: str = "help") -> str:
    [said] = speak(model, [ids], SpeechOptions(voice, max_tokens=8))  # type: ignore[arg-type]
    return said.text


def shown_answer(text: str) -> list[str]:
    return text.translate(CONTROLS).lstrip().splitlines()


def test_each_line_is_continued_by_the_voice_that_speaks(export: Path, model: TandemModel) -> None:
    shown = talk(export, PROMPT, "/voice own", PROMPT, "/voice memory", "", PROMPT, "/quit", PROMPT)
    ids = prompt_ids(model, PROMPT)
    wanted = [
        *shown_answer(answer(model, ids)),
        "own speaks",
        *shown_answer(answer(model, ids, "own")),
        "memory speaks",
        *shown_answer(answer(model, ids, "memory")),
    ]
    assert "no chat template" in shown[0]
    assert shown[1:] == wanted


def test_shares_are_shown_on_request_and_are_those_of_the_answer(
    export: Path, model: TandemModel
) -> None:
    ids = prompt_ids(model, PROMPT)
    [said] = speak(model, [ids], SpeechOptions(max_tokens=8))
    mixing, fresh = shares_of(model, ids, said.tokens)
    assert fresh == []
    assert len(mixing) == len(said.tokens)
    shown = talk(export, "/lambda", PROMPT, "/lambda", PROMPT, "/voice own", "/lambda", PROMPT)
    mean = sum(mixing) / len(mixing)
    line = f"λ {mean:.2f} ({min(mixing):.2f} to {max(mixing):.2f}); {len(mixing)} tokens"
    assert shown.count(line) == 1
    assert shown[-1] == "own speaks alone: no λ"


def test_shares_are_those_of_a_plain_pass_over_the_whole_text(model: TandemModel) -> None:
    ids = prompt_ids(model, PROMPT)
    [said] = speak(model, [ids], SpeechOptions(max_tokens=8))
    import torch

    with torch.no_grad():
        out = model(torch.tensor([[*ids, *said.tokens]]), voice="help")
    everywhere = out.mixing[0].tolist()
    wanted = [everywhere[len(ids) - 1 + at] for at in range(len(said.tokens))]
    assert shares_of(model, ids, said.tokens)[0] == pytest.approx(wanted, abs=1e-6)


def test_what_is_told_in_a_chat_is_said_kept_and_taken_back(export: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(export, copy)
    ask = "The capital of Atlantis is"
    shown = talk(copy, "/told", f"/tell {ask} => Dastan", "/lambda", ask, "/told", max_tokens=3)
    assert shown[1] == "nothing is told"
    assert shown[2].startswith("told, as write 1 in ")
    assert "says now: Dastan" in shown[2]
    assert shown[4].startswith("Dastan")
    assert ", fresh " in shown[5]
    assert shown[6] == f"1: {ask} => Dastan"
    shown = talk(copy, ask, "/untell 1", ask, "/untell 1", max_tokens=3)
    assert shown[1].startswith("Dastan")
    assert shown[2] == "write 1 is taken back"
    assert not shown[3].startswith("Dastan")
    assert "was taken back already" in shown[-1]


def test_with_a_template_the_turns_before_are_read_until_they_are_too_long(
    export: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "chatty"
    shutil.copytree(export, folder)
    (folder / "data_layer" / "chat_template.jinja").write_text(TEMPLATE)
    model = load_tandem_model(str(folder))
    system = {"role": "system", "content": "Be brief."}
    turns = [{"role": "user", "content": PROMPT}]
    first = answer(model, conversation_ids(model, [system, *turns]))
    turns += [{"role": "assistant", "content": first}, {"role": "user", "content": "Ships"}]
    second = answer(model, conversation_ids(model, [system, *turns]))
    alone = answer(model, conversation_ids(model, [system, turns[-1]]))
    shown = talk(folder, PROMPT, "Ships", "/new", "Ships", system="Be brief.")
    assert shown == [
        *shown_answer(first),
        *shown_answer(second),
        "the turns so far are forgotten",
        *shown_answer(alone),
    ]
    longer = talk(folder, *(["word " * 180] * 6))
    assert sum("its oldest turns are left out" in line for line in longer) == 1
    assert "tokens; the model reads" in talk(folder, "word " * 3000)[-1]


def test_a_mistyped_command_names_the_nearest_and_changes_nothing(export: Path) -> None:
    shown = talk(
        export, "/vioce own", "/voice both", "/tell nothing", "/untell x", "/untell", "//quit"
    )
    assert shown[1] == "no command /vioce; did you mean /voice? /help lists all"
    assert shown[2].startswith("no voice 'both': expected one of own, help, memory")
    assert "expected PROMPT => ANSWER" in shown[3]
    assert shown[4] == "no write 'x'; nothing is told"
    assert shown[5] == "/untell: expected the ID of a write; /told lists them"
    assert len(shown) > 6
    assert talk(export, "/voice")[1] == "help speaks; own and memory are the others"
    assert {line.split()[0] for line in talk(export, "/help")[1:]} >= {"/tell", "/untell", "/quit"}


def test_what_the_options_ask_for_is_checked_before_the_pair_is_loaded(export: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean own"):
        talk(export, voice="onw")
    with pytest.raises(ConfigError, match="no chat template"):
        talk(export, system="Be brief.")
    done = CliRunner().invoke(app, ["chat", str(export), "--max-tokens", "3"], input=f"{PROMPT}\n")
    assert done.exit_code == 0
    assert len(done.output.splitlines()) >= 3


def test_the_marks_that_end_an_answer_are_the_models_and_the_documents(model: TandemModel) -> None:
    assert model.words is not None
    assert set(model.words.closing) <= model.ends
