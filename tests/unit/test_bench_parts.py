"""The parts of the benchmark (issue 5, `make bench`): sources and their changes, the line that is far or narrow, the
large index, command lines and amounts. Nothing here needs a fast machine: times have lower bounds only."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from bench import bigindex, borg, groups, sources
from bench.__main__ import ALL_GROUPS, _amounts, _asked, _options
from bench.amounts import QUICK, SOURCES, Amounts, needed_later
from bench.costs import COST_ROWS
from bench.figures import FIGURE_ROWS
from bench.measure import CommandFailed, quickly, reading
from bench.rows import ROWS
from bench.servers import line
from bench.tools import Remote, Tandem

from tandem_agent.config_read import parse_config

MIB = 1 << 20


def test_every_row_belongs_to_a_part_that_runs():
    wanted = {row.group for kind in (ROWS, FIGURE_ROWS, COST_ROWS) for row in kind}
    assert wanted == set(groups.RUNNERS)
    assert set(SOURCES) <= set(groups.RUNNERS)


def test_sources_are_kept_while_a_later_part_reads_them():
    assert needed_later(["sftp", "both", "start"]) == {"big", "far", "narrow"}
    assert needed_later([]) == set()


def test_amounts_are_as_the_command_line_says():
    assert _amounts(_options([])) == Amounts()
    assert _amounts(_options(["--quick"])) == QUICK
    some = _amounts(_options(["--quick", "--files", "7", "--image-mib", "3", "--seed", "9"]))
    assert (some.files, some.image, some.seed, some.big) == (7, 3 * MIB, 9, QUICK.big)
    assert set(ALL_GROUPS) - _asked(_options(["--quick"])) == {"million"}
    assert _asked(_options([])) == set(ALL_GROUPS)
    assert _asked(_options(["--quick", "--only", "million"])) == {"million"}


def test_what_is_needed_on_the_disk_is_that_of_the_largest_part():
    assert Amounts().disk(["start"]) == Amounts(files=0).disk(["tree"]) < Amounts().disk(["big"])
    assert Amounts().disk(["big", "image"]) == Amounts().disk(["image"]) < 30 << 30


def read(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("f*") if not path.is_symlink()
    }


def test_one_percent_of_a_tree_is_changed_and_no_file_comes_or_goes(tmp_path):
    sources.make("small", str(tmp_path), 300, 1)
    before = read(tmp_path)
    sources.change(str(tmp_path), 5)
    after = read(tmp_path)
    assert before.keys() == after.keys() and len(before) == 300
    assert sum(before[name] != after[name] for name in before) == 3


def test_a_disk_image_is_half_text_and_changes_in_place(tmp_path):
    sources.make("image", str(tmp_path), 8 * MIB, 1)
    file = tmp_path / sources.FILE
    before = file.read_bytes()
    letters = sum(before.count(letter) for letter in b"abcdefghijklmnopqrstuvwxyz ")
    assert len(before) == 8 * MIB and 0.3 < letters / len(before) < 0.8
    sources.change(str(tmp_path), 5)
    after = file.read_bytes()
    differ = sum(before[at : at + 4096] != after[at : at + 4096] for at in range(0, len(before), 4096)) * 4096
    assert len(after) == len(before) and len(before) // 100 <= differ <= len(before) // 100 + MIB


@pytest.fixture
def echo():
    """A server that sends back what it gets, at the end of its input; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as stream:
                    connection.sendall(stream.read())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def through(port, data):
    """What comes back, and after how many seconds."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as stream:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return stream.read(), time.monotonic() - began


@pytest.mark.parametrize(
    ("milliseconds", "rate", "least"), [(0, 0, 0.0), (120, 0, 0.12), (0, 10_000_000, 0.25)]
)
def test_a_line_delays_and_narrows_and_changes_nothing(echo, milliseconds, rate, least):
    remote = Remote("127.0.0.1", echo, "me", "key", "[127.0.0.1]:1 ssh-ed25519 AAAA", "/x", "/x")
    data = bytes(range(256)) * 12_000
    with line(remote, milliseconds, rate) as far:
        assert far.known_hosts_line == f"[127.0.0.1]:{far.port} ssh-ed25519 AAAA"
        found, seconds = through(far.port, data)
    assert found == data
    assert seconds >= least


def test_connections_share_the_rate_of_a_line(echo):
    remote = Remote("127.0.0.1", echo, "me", "key", "[127.0.0.1]:1 ssh-ed25519 AAAA", "/x", "/x")

    async def both(port):
        return await asyncio.gather(*(asyncio.to_thread(through, port, bytes(MIB)) for _ in range(2)))

    with line(remote, rate=10_000_000) as narrow:
        found = asyncio.run(both(narrow.port))
    assert [len(data) for data, _ in found] == [MIB, MIB]
    assert max(seconds for _, seconds in found) >= 0.18


def test_a_large_index_has_what_its_seed_says_and_nothing_else(tmp_path):
    made = bigindex.make(str(tmp_path), 10_000, 3)
    kinds = [len(entry.frames[0].lengths) for entry in bigindex.packs(10_000, 3)]
    assert kinds[0] == bigindex.SMALL and kinds.count(1) > kinds.count(bigindex.SMALL)
    assert sum(entry.blobs for entry in bigindex.packs(10_000, 3)) == 10_000
    found = bigindex.ask(str(tmp_path), 10_000, 3)  # asserts hits and misses itself
    assert {*made, *found} == {row.name.removeprefix("index-") for row in FIGURE_ROWS if row.group == "index"}


def test_tandem_is_configured_with_the_tiers_that_a_row_needs(tmp_path):
    remote = Remote("127.0.0.1", 5, "me", "/key", "[127.0.0.1]:5 ssh-ed25519 AAAA", "/r", str(tmp_path / "r"))

    def tiers(**more):
        tool = Tandem(str(tmp_path), "/source", **more)
        tool.configure()
        return {tier.name: tier for tier in parse_config((tmp_path / "agent.toml").read_text(), "x").tiers}

    assert set(tiers()) == {"vault"}
    assert set(tiers(remote=remote)) == {"remote"}
    both = tiers(remote=remote, with_vault=True, lag=0, attempts=1)
    assert set(both) == {"vault", "remote"}
    assert (both["remote"].lag_budget.seconds, both["remote"].retries.attempts) == (0, 1)


def test_what_a_command_reads_is_told_by_the_kernel(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3 * MIB))
    script = "import json, sys; print(json.dumps({'found': len(open(sys.argv[1], 'rb').read())}))"
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    _, read, said = reading(command, os.environ)
    assert said == {"found": 3 * MIB}
    assert 3 * MIB <= read < 30 * MIB
    with pytest.raises(CommandFailed, match="ended with 3: sorry"):
        reading(["sh", "-c", "echo sorry; exit 3"], os.environ)
    with pytest.raises(CommandFailed, match="ended with 3: sorry"):
        quickly(["sh", "-c", "echo sorry >&2; exit 3"], os.environ)


def test_where_borg_cannot_be_set_up_it_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(borg, "ENVIRONMENT", str(tmp_path / "borg"))
    monkeypatch.setattr(borg, "BORG", str(tmp_path / "borg" / "bin" / "borg"))
    refused = subprocess.CompletedProcess([], 1, "", "error: stop\nCould not find lz4 lib/headers\nsee above")
    monkeypatch.setattr(borg.subprocess, "run", lambda *_, **__: refused)
    said = []
    borg.set_up(said.append)
    assert "Could not find lz4 lib/headers" in said[-1]
    assert not (tmp_path / "borg").exists()
    assert borg.Borg.version() is None


def test_the_command_runs_a_part_and_judges_it(tmp_path):
    command = [
        sys.executable,
        "-m",
        "bench",
        "--quick",
        "--without",
        "borg",
        "--only",
        "index",
        "--chunks",
        "1000",
    ]
    done = subprocess.run([*command, "--workdir", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # how fast this machine is now is no matter for a test
    assert "index of many chunks, open     below 1 s" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_written_where_that_is_asked_for(tmp_path):
    command = [sys.executable, "-m", "bench", "--results", str(tmp_path)]
    part = ["--quick", "--only", "index", "--chunks", "1000", "--write"]
    subprocess.run([*command, *part], capture_output=True, text=True, check=False)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "index of many chunks, open" in text and ": index\n" in text
    (tmp_path / "RESULTS.md").unlink()
    subprocess.run([*command, "--report"], check=True)
    assert (tmp_path / "RESULTS.md").read_text() == text
