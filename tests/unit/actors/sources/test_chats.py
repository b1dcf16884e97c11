"""Chats of a corpus: what is read of a row, and what a bad one says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.settings.corpus import CorpusSpec
from actors.sources.chats import Chat, read_chat
from actors.sources.documents import Document
from actors.wire import CorpusError
from tests.unit.actors.chats import TALK, talks
from tests.unit.actors.sources.test_file_source import opened, write_rows

USER = {"role": "user", "content": "one"}
ASSISTANT = {"role": "assistant", "content": "two"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
RESULT = {"role": "tool", "name": "f", "content": "3"}
SYSTEM = {"role": "system", "content": "be"}


def place() -> str:
    return "rows.jsonl, line 7"


def chat(*messages: Any, tools: Any = None, num_given: int = 0) -> Chat:
    return read_chat(list(messages), tools, place, num_given)


@pytest.mark.parametrize(
    ("messages", "learned"),
    [
        ([USER, ASSISTANT], [1]),
        ([SYSTEM, USER, ASSISTANT, USER, ASSISTANT], [2, 4]),
        ([USER, CALL, RESULT, RESULT, ASSISTANT], [1, 4]),
        ([USER, ASSISTANT, USER], [1]),
    ],
)
def test_every_turn_of_the_assistant_is_learned(messages: list[Any], learned: list[int]) -> None:
    found = chat(*messages)
    assert list(found.messages) == messages
    assert found.learned == learned


def test_turns_that_are_given_are_not_learned() -> None:
    assert chat(USER, ASSISTANT, USER, ASSISTANT, num_given=3).learned == [3]


def test_keys_that_are_null_are_left_out_at_any_depth() -> None:
    message = {**ASSISTANT, "name": None, "tool_calls": [{"function": {"name": "f", "x": None}}]}
    got = chat(USER, message).messages[1]
    assert got == {**ASSISTANT, "tool_calls": [{"function": {"name": "f"}}]}


def test_content_may_come_in_parts_of_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert chat({"role": "user", "content": parts}, ASSISTANT).text == "one\ntwo\ntwo"


@pytest.mark.parametrize("tools", [[{"name": "f", "x": None}], '[{"name": "f"}]'])
def test_tools_may_be_a_list_or_its_json(tools: Any) -> None:
    assert chat(USER, ASSISTANT, tools=tools).tools == ({"name": "f"},)


@pytest.mark.parametrize("tools", [None, "", [], "[]"])
def test_no_tools_are_none(tools: Any) -> None:
    assert chat(USER, ASSISTANT, tools=tools).tools is None


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], r"none of its 0 messages is an assistant's"),
        ([USER], r"none of its 1 messages is an assistant's, so nothing could be learned"),
        ([USER, "hi"], r'message 2: expected an object with role and content, got str "hi"'),
        (
            [{"from": "human", "value": "hi"}],
            r"message 1: no role; there are: from, value; rename its keys to role and content",
        ),
        ([USER, {"role": "asistant", "content": "x"}], r"message 2: role .*did you mean assistant"),
        ([{"role": "user"}, ASSISTANT], r"message 1: no content; there are: role"),
        ([{"role": "user", "content": 5}, ASSISTANT], r"message 1: expected content of text"),
        (
            [{"role": "user", "content": [{"type": "image"}]}, ASSISTANT],
            r"message 1: expected content of text, got a part dict .*image",
        ),
        ([USER, {"role": "assistant", "content": " "}], r"message 2: an assistant's turn without"),
        ([USER, {"role": "assistant", "content": None}], r"message 2: an assistant's turn without"),
        ([USER, SYSTEM, ASSISTANT], r"message 2: system after user; expected system first"),
        ([ASSISTANT, USER], r"message 1: assistant after nothing"),
        ([USER, USER, ASSISTANT], r"message 2: user after user"),
        ([USER, RESULT, ASSISTANT], r"message 2: tool after user"),
        ([USER, ASSISTANT, ASSISTANT], r"message 3: assistant after assistant; .*join messages"),
    ],
)
def test_a_bad_chat_is_named_with_its_line_and_message(messages: list[Any], said: str) -> None:
    with pytest.raises(CorpusError, match=rf"^rows\.jsonl, line 7: .*{said}"):
        chat(*messages)


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("{", r"its tools are not JSON: .* at column 2"),
        (["f"], r"expected tools as a list of JSON"),
    ],
)
def test_bad_tools_are_named_with_their_line(tools: Any, said: str) -> None:
    with pytest.raises(CorpusError, match=rf"line 7: {said}"):
        chat(USER, ASSISTANT, tools=tools)


def spec(folder: Path, name: str, **columns: Any) -> CorpusSpec:
    return CorpusSpec(paths=(str(folder / name),), block_bytes=256, **columns)


def documents(corpus: CorpusSpec) -> list[Document]:
    source = opened(corpus)
    read = [d for block in range(source.num_blocks) for d in source.block(block)]
    return [*read, *source.heldout()]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.jsonl.gz"])
def test_chats_are_read_from_every_format(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [*talks(30), {"messages": TALK}, {"messages": None}]
    write_rows(tmp_path / name, [{**row, "tools": [{"name": "f"}]} for row in rows])
    found = documents(spec(tmp_path, name, messages_column="messages", tools_column="tools"))
    chats = [d.chat for d in found if d.chat is not None]
    assert len(chats) == len(found) == 31
    assert sorted(c.text for c in chats) == sorted(
        "\n".join(m["content"] for m in row["messages"]) for row in rows[:-1]
    )
    assert {c.tools for c in chats if c.tools != ({"name": "f"},)} == set()
    assert all(d.num_bytes > 20 for d in found)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_prompt_and_completion_are_an_exchange(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name, [{"q": f"{n}?", "a": f"{n}!"} for n in range(60)])
    found = documents(spec(tmp_path, name, prompt_column="q", completion_column="a", as_chat=True))
    assert len(found) == 60
    one = next(d.chat for d in found if d.chat is not None and d.chat.text == "7?\n7!")
    assert [m["role"] for m in one.messages] == ["user", "assistant"]
    assert one.learned == [1]


def test_prompt_and_completion_may_be_messages_themselves(tmp_path: Path) -> None:
    row = {"q": [USER, ASSISTANT, USER], "a": [ASSISTANT]}
    write_rows(tmp_path / "rows.jsonl", [row] * 30)
    columns = {"prompt_column": "q", "completion_column": "a", "as_chat": True}
    found = documents(spec(tmp_path, "rows.jsonl", **columns))[0].chat
    assert found is not None
    assert found.learned == [3]


def test_tools_may_be_missing_in_a_line(tmp_path: Path) -> None:
    rows = [*talks(30), {**talks(1)[0], "tools": [{"name": "f"}]}]
    write_rows(tmp_path / "rows.jsonl", rows)
    columns = {"messages_column": "messages", "tools_column": "tools"}
    found = documents(spec(tmp_path, "rows.jsonl", **columns))
    assert sum(d.chat is not None and d.chat.tools is not None for d in found) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"messages": "hi"}', r"column messages: expected a list of messages, got str"),
        ('{"chat": []}', r"no column messages; there are: chat; .*or messages_column"),
        ('{"messages": [{"role": "user"', r"not JSON: .* at column"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', r"half a surrogate pair"),
        ('{"messages": [{"role": "user", "content": "a"}]}', r"none of its 1 messages"),
        ('{"messages": [], "tools": 5}', r"column tools: expected a list, or JSON text, got int"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, line: str, said: str) -> None:
    write_rows(tmp_path / "rows.jsonl", talks(30))
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(line + "\n")
    columns = {"messages_column": "messages", "tools_column": "tools"}
    with pytest.raises(CorpusError, match=rf"rows\.jsonl, line 31: {said}"):
        documents(spec(tmp_path, "rows.jsonl", **columns))


@pytest.mark.parametrize("row_group_size", [7, 100])
def test_a_bad_row_of_parquet_is_named_with_its_row_group(
    tmp_path: Path, row_group_size: int
) -> None:
    rows = talks(30)
    rows[23]["messages"] = rows[23]["messages"][:1]
    write_rows(tmp_path / "rows.parquet", rows, row_group_size)
    row, group = 23 % row_group_size, 23 // row_group_size
    with pytest.raises(
        CorpusError, match=rf"rows\.parquet, row {row} of row group {group}: none of its 1"
    ):
        documents(spec(tmp_path, "rows.parquet", messages_column="messages"))


def test_a_column_of_text_is_no_column_of_chats(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", [{"messages": "hi"}] * 30)
    with pytest.raises(CorpusError, match=r"column messages: expected a list of messages, got str"):
        opened(spec(tmp_path, "rows.parquet", messages_column="messages"))
