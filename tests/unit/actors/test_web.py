"""Files of a web server, which may refuse them, be away, or send something else."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest

from actors.sources.facts import read_facts
from actors.sources.paths import File, is_there, list_files
from actors.storage import storage_errors
from actors.wire import CorpusError, StorageError
from tests.unit.actors.sources.web_server import served

TEXT = b"".join(b"line %d of a text\n" % i for i in range(400))
LINKS = b'<html><a href="a.txt">a.txt</a> <a href="b.txt">b.txt</a></html>'


class Requests(BaseHTTPRequestHandler):
    """`/STATUS/…` is refused with that status, `/whole/…` is sent whole whatever is asked for, and
    `/signed/…` needs a query.
    """

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        folder, _, name = asked.path.strip("/").partition("/")
        if folder.isdigit() or (folder == "signed" and asked.query != "key=1"):
            self._send(int(folder) if folder.isdigit() else 403, b"")
        elif not name:
            self._send(200, LINKS, Content_Type="text/html")
        elif name[0] not in "ab":
            self._send(404, b"")
        elif (given := self.headers.get("Range")) and folder != "whole":
            first, last = given.removeprefix("bytes=").split("-")
            self._send(206, TEXT[int(first) : int(last) + 1])
        else:
            self._send(200, TEXT)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a web server."""
    with served(Requests) as address:
        yield address


def only(url: str) -> File:
    (file,) = list_files((url,))
    return file


def test_a_file_of_a_web_server_is_read_in_parts(server: str) -> None:
    file = only(f"{server}/x/a.txt")
    assert (file.size, file.read(3, 9)) == (len(TEXT), TEXT[3:9])


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("name", ["a.txt", "a.txt?key=1", "*.txt"])
def test_a_server_that_refuses_is_said_to_refuse(server: str, status: int, name: str) -> None:
    with pytest.raises(CorpusError, match=f"{status}, message="):
        list_files((f"{server}/{status}/{name}",))


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("name", ["a.txt", "a.txt?key=1"])
def test_a_server_that_is_overloaded_or_broken_is_an_outage(
    server: str, status: int, name: str
) -> None:
    with pytest.raises(StorageError, match=f"{status}, message="):
        list_files((f"{server}/{status}/{name}",))


def test_a_server_that_is_away_is_an_outage() -> None:
    with pytest.raises(StorageError, match="Cannot connect"):
        list_files(("http://127.0.0.1:9/a.txt",))


@pytest.mark.parametrize("url", ["x/none.txt", "404/a.txt", "410/a.txt"])
def test_a_file_that_a_server_does_not_have_is_missing(server: str, url: str) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        list_files((f"{server}/{url}",))
    assert not is_there(f"{server}/{url}")


def test_whether_a_file_is_there_is_unknown_where_the_server_refuses(server: str) -> None:
    assert is_there(f"{server}/signed/a.txt?key=1")
    with pytest.raises(Exception, match="403"), storage_errors("it", "can't be read"):
        is_there(f"{server}/signed/a.txt?key=2")


def test_facts_that_are_refused_or_missing_say_so(server: str) -> None:
    with pytest.raises(CorpusError, match=r"the server refuses it: .*403"):
        read_facts(f"{server}/403/a.jsonl")
    with pytest.raises(CorpusError, match="no such file"):
        read_facts(f"{server}/x/none.jsonl")


def test_the_query_of_a_url_is_no_part_of_its_extension(server: str) -> None:
    file = only(f"{server}/signed/a.jsonl.gz?key=1")
    assert (file.format, file.codec) == ("jsonl", "gzip")


def test_a_pattern_takes_the_files_that_a_page_links_to(server: str) -> None:
    found = list_files((f"{server}/x/*.txt",))
    assert [(file.path, file.size) for file in found] == [
        (f"{server}/x/{name}", len(TEXT)) for name in ("a.txt", "b.txt")
    ]


@pytest.mark.parametrize("folder", ["x/", "x"])
def test_a_page_is_no_text_unless_the_format_says_so(server: str, folder: str) -> None:
    with pytest.raises(CorpusError, match="a web page"):
        list_files((f"{server}/{folder}",))
    assert [file.size for file in list_files((f"{server}/{folder}",), "text")] == [len(LINKS)]


def test_a_server_that_sends_no_parts_is_refused(server: str) -> None:
    with pytest.raises(CorpusError, match=r"sends \d+ bytes where 10 of .* or compress it"):
        only(f"{server}/whole/a.txt").read(0, 10)
