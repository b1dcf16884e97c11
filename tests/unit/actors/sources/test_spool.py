"""The spool: what is unpacked, who shares it, and that nothing is left behind."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.sources import spool
from actors.sources.paths import File, list_files
from actors.sources.spool import Spool
from actors.wire import CorpusError

RAW = b"".join(b"line %d of the file\n" % (i * 7919 % 10007) for i in range(5000))


def arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(raw: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as out:
            out.write(raw)
        return bytes(sink.getvalue())

    return compress


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": arrow("zstd"),
    "lz4": arrow("lz4"),
}


def packed(folder: Path, name: str, raw: bytes) -> File:
    (folder / name).write_bytes(raw)
    return list_files([str(folder / name)])[0]


def left(folder: Path) -> int:
    return len(list(folder.iterdir()))


@pytest.mark.parametrize("suffix", PACKERS)
def test_each_compression_is_unpacked(tmp_path: Path, suffix: str) -> None:
    file = packed(tmp_path, f"a.txt.{suffix}", PACKERS[suffix](RAW))
    unpacked = Spool(str(tmp_path / "spool"))
    assert unpacked.size(file) == len(RAW)
    assert unpacked.read(file, 1000, 1300) == RAW[1000:1300]


@pytest.mark.parametrize("suffix", PACKERS)
def test_streams_one_after_the_other_are_one_file(tmp_path: Path, suffix: str) -> None:
    pack = PACKERS[suffix]
    file = packed(tmp_path, f"a.txt.{suffix}", pack(RAW[:700]) + pack(RAW[700:]))
    assert Spool(str(tmp_path / "spool")).read(file, 0, len(RAW)) == RAW


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_truncated_file_is_refused_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    file = packed(tmp_path, f"a.txt.{suffix}", PACKERS[suffix](RAW)[:-200])
    with pytest.raises(CorpusError, match=rf"a\.txt\.{suffix}: .*truncated"):
        Spool(str(tmp_path / "spool")).size(file)
    assert left(tmp_path / "spool") == 0


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_is_not_compressed_so_is_refused(tmp_path: Path, suffix: str) -> None:
    file = packed(tmp_path, f"a.txt.{suffix}", RAW)
    with pytest.raises(CorpusError, match=rf"a\.txt\.{suffix}: can't be unpacked"):
        Spool(str(tmp_path / "spool")).size(file)


def test_a_file_is_unpacked_once_for_all_who_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed(tmp_path, "a.txt.gz", gzip.compress(RAW))
    one, other = (Spool(str(tmp_path / "spool")) for _ in range(2))
    assert one.size(file) == len(RAW)

    def fail(*_: Any) -> None:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(Spool, "_unpack", fail)
    assert other.read(file, 0, 9) == RAW[:9]
    one.close()
    assert left(tmp_path / "spool") == 1
    other.close()
    assert left(tmp_path / "spool") == 0


def test_who_found_a_file_half_unpacked_does_not_wait_for_those_who_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed(tmp_path, "a.txt.gz", gzip.compress(RAW))
    reader, late = (Spool(str(tmp_path / "spool")) for _ in range(2))
    assert reader.size(file) == len(RAW)  # and holds it for as long as it reads
    complete, looked = spool._complete, list[bool]()

    def a_moment_before(descriptor: int) -> bool:
        looked.append(complete(descriptor))
        return looked[-1] and len(looked) > 1

    monkeypatch.setattr(spool, "_complete", a_moment_before)
    waiting = threading.Thread(target=late.size, args=(file,), daemon=True)
    waiting.start()
    waiting.join(timeout=10)
    assert not waiting.is_alive()
    assert looked == [True, True]  # locked, closed and opened again


def test_a_changed_file_is_unpacked_again(tmp_path: Path) -> None:
    one, other = (Spool(str(tmp_path / "spool")) for _ in range(2))
    assert one.size(packed(tmp_path, "a.txt.gz", gzip.compress(RAW))) == len(RAW)
    assert other.size(packed(tmp_path, "a.txt.gz", gzip.compress(RAW[:999]))) == 999


def test_few_unpacked_files_are_kept(tmp_path: Path) -> None:
    files = [packed(tmp_path, f"{n}.txt.gz", gzip.compress(RAW[n:])) for n in range(4)]
    unpacked = Spool(str(tmp_path / "spool"), kept=2)
    for _ in range(2):
        for number, file in enumerate(files):
            assert unpacked.read(file, 0, 9) == RAW[number : number + 9]
            assert left(tmp_path / "spool") <= 2


CHILD = """
import sys
from actors.sources.paths import list_files
from actors.sources.spool import Spool
spool = Spool(sys.argv[2])
print(spool.size(list_files([sys.argv[1]])[0]), flush=True)
sys.stdin.readline()
"""


def child(file: File, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, file.path, str(folder)],
        cwd=Path(__file__).parents[4],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) == len(RAW)
    return process


def test_a_process_that_ends_removes_what_it_unpacked(tmp_path: Path) -> None:
    file = packed(tmp_path, "a.txt.gz", gzip.compress(RAW))
    process = child(file, tmp_path / "spool")
    assert left(tmp_path / "spool") == 1
    process.communicate("\n", timeout=30)
    assert left(tmp_path / "spool") == 0


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    file = packed(tmp_path, "a.txt.gz", gzip.compress(RAW))
    process = child(file, tmp_path / "spool")
    process.kill()
    process.wait(timeout=30)
    assert left(tmp_path / "spool") == 1
    other = packed(tmp_path, "b.txt.gz", gzip.compress(RAW[:50]))
    unpacked = Spool(str(tmp_path / "spool"))
    assert unpacked.size(other) == 50
    assert left(tmp_path / "spool") == 1


def test_what_another_process_reads_is_not_removed(tmp_path: Path) -> None:
    file = packed(tmp_path, "a.txt.gz", gzip.compress(RAW))
    process = child(file, tmp_path / "spool")
    unpacked = Spool(str(tmp_path / "spool"))
    assert unpacked.read(file, 0, 9) == RAW[:9]
    unpacked.close()
    assert left(tmp_path / "spool") == 1
    process.communicate("\n", timeout=30)


def test_a_disk_without_room_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "FREE_BYTES", 1 << 60)
    file = packed(tmp_path, "a.txt.gz", gzip.compress(RAW))
    with pytest.raises(CorpusError, match=r"no room to unpack it: .*; set corpus\.spool"):
        Spool(str(tmp_path / "spool")).size(file)
    assert left(tmp_path / "spool") == 0


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    file = packed(tmp_path, "a.txt.gz", gzip.compress(RAW))
    with pytest.raises(CorpusError, match=r"corpus\.spool .*a\.txt\.gz"):
        Spool(file.path).size(file)
