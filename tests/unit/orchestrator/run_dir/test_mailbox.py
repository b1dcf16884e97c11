from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.wire import ConfigError
from orchestrator.loop.command import Command, Reply
from orchestrator.run_dir.mailbox import KEPT_REPLIES, LARGEST_BYTES, Mailbox, new_id
from orchestrator.run_dir.run_dir import RunDir

ID = f"{1:019d}-0000000a"


def a_command(**changes: Any) -> Command:
    values = {"id": ID, "run": "run", "driver": "d", "kind": "resize", "memory_workers": 2}
    return Command(**(values | changes))


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path.name}/run"


def drop(url: str, content: str, name: str = f"{ID}.json") -> None:
    """Puts a file into the mailbox that no client wrote."""
    RunDir(url).write(f"mailbox/{name}", content)


def taken(box: Mailbox) -> list[Command]:
    return list(box.take("run", "d"))


def test_what_is_posted_is_taken_once(url: str) -> None:
    Mailbox(RunDir(url)).post(a_command())
    box = Mailbox(RunDir(url))
    assert taken(box) == [a_command()]
    assert taken(box) == []


def test_commands_are_taken_in_the_order_in_which_they_were_sent(url: str) -> None:
    sent = [a_command(id=new_id()) for _ in range(5)]
    for command in reversed(sent):
        Mailbox(RunDir(url)).post(command)
    assert taken(Mailbox(RunDir(url))) == sent


def test_an_empty_mailbox_holds_nothing(url: str) -> None:
    assert taken(Mailbox(RunDir(url))) == []
    assert Mailbox(RunDir(url)).reply_to(ID) is None


def test_a_reply_is_found_by_who_asked_and_the_last_one_removes_the_command(url: str) -> None:
    client, driver = Mailbox(RunDir(url)), Mailbox(RunDir(url))
    client.post(a_command())
    taken(driver)
    for state in ("accepted", "done"):
        reply = Reply(id=ID, state=state, message="x")  # type: ignore[arg-type]
        driver.reply(reply)
        assert client.reply_to(ID) == reply
    assert list(RunDir(url).list_files("mailbox")) == [f"{ID}.reply.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not a command"),
        ("[]", "not a command"),
        (json.dumps({"id": ID, "run": "run", "driver": "d", "kind": "erase"}), "kind"),
        (a_command().model_dump_json()[:-1] + ',"force":true}', "unknown key force"),
        (a_command().model_dump_json().replace(":2", ':"2"'), "memory_workers"),
        (a_command().model_dump_json().replace(":2", ":0"), "memory_workers"),
        (a_command().model_dump_json().replace('"resize"', '"stop"'), "only a resize has them"),
        (a_command(id=new_id()).model_dump_json(), "its id is"),
        (" " * (LARGEST_BYTES + 1), f"at most {LARGEST_BYTES}"),
    ],
)
def test_what_is_no_command_gets_a_reply_with_the_reason_and_goes(
    url: str, content: str, reason: str
) -> None:
    drop(url, content)
    box = Mailbox(RunDir(url))
    assert taken(box) == []
    reply = box.reply_to(ID)
    assert reply is not None
    assert reply.state == "refused"
    assert reason in reply.message
    assert f"{ID}.json" not in RunDir(url).list_files("mailbox")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run": "other"}, "it is for run other, and this is run run"),
        ({"driver": "earlier"}, "it is for driver earlier, and this is driver d"),
    ],
)
def test_what_is_for_someone_else_is_refused(
    url: str, changes: dict[str, str], reason: str
) -> None:
    box = Mailbox(RunDir(url))
    box.post(a_command(**changes))
    assert taken(box) == []
    reply = box.reply_to(ID)
    assert reply is not None
    assert (reply.state, reply.message) == ("refused", reason)


@pytest.mark.parametrize("name", ["notes.txt", "x.json", f"{ID}.json.part", f"{ID}.reply.json"])
def test_files_with_other_names_stay_as_they_are(url: str, name: str) -> None:
    drop(url, "not ours", name)
    assert taken(Mailbox(RunDir(url))) == []
    assert RunDir(url).read(f"mailbox/{name}") == "not ours"


def test_a_bad_file_keeps_no_good_one_from_being_taken(url: str) -> None:
    drop(url, "{", f"{0:019d}-00000000.json")
    Mailbox(RunDir(url)).post(a_command())
    assert taken(Mailbox(RunDir(url))) == [a_command()]


def test_storage_that_can_not_be_read_is_no_refusal(tmp_path: Path) -> None:
    box = Mailbox(RunDir(str(tmp_path / "run")))
    box.post(a_command())
    path = tmp_path / "run" / "mailbox" / f"{ID}.json"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="can't be read"):
        taken(box)
    path.unlink()
    box.post(a_command())
    assert taken(box) == [a_command()]


def test_only_the_newest_replies_are_kept(tmp_path: Path) -> None:
    box = Mailbox(RunDir(str(tmp_path / "run")))
    ids = [f"{number:019d}-00000000" for number in range(KEPT_REPLIES + 3)]
    for command_id in ids:
        box.reply(Reply(id=command_id, state="done", message="x"))
    assert sorted(RunDir(str(tmp_path / "run")).list_files("mailbox")) == [
        f"{command_id}.reply.json" for command_id in ids[3:]
    ]


def test_a_reply_that_is_none_is_named(url: str) -> None:
    drop(url, "{}", f"{ID}.reply.json")
    with pytest.raises(ConfigError, match=r"reply\.json: not a reply: id is missing"):
        Mailbox(RunDir(url)).reply_to(ID)


def test_what_was_for_an_earlier_driver_is_swept_out(url: str) -> None:
    box = Mailbox(RunDir(url))
    box.post(a_command())
    box.reply(Reply(id=new_id(), state="done", message="x"))
    box.empty()
    assert RunDir(url).list_files("mailbox") == {}
