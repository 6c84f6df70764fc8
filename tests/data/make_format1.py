"""Made `format1.tar.xz`: a repository as Tandem 0.1.0 wrote it before index format 2, with its two tiers, the state of
its installation, and what each backup has to restore. Kept as a description: today's program writes another format.

    python -m tests.data.make_format1 TANDEM OUTPUT.tar.xz      # TANDEM: the command of a program of format 1

`tests/support/format1.py` unpacks it anywhere; nothing in it knows where it was made, but that the snapshots name
the source as /tmp/format1/source.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile

from tests.support import manifest

HERE = "/tmp/format1"
PASSPHRASE = "correct horse battery staple"
TIERS = ("vault", "remote")
_START = 1_750_000_000


def main(command: str, output: str) -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    os.makedirs(f"{HERE}/source")
    _write_config()
    _run(command, "init")
    backups = []
    for number, change in enumerate((_first, _edit, _nothing, _grow, _edit, _remove)):
        change(random.Random(number))
        _settle(f"{HERE}/source", _START + 1000 * number)
        done = json.loads(_run(command, "backup", "--json"))
        backups.append({"id": done["id"], "name": done["name"], "holds": _taken(f"{HERE}/source")})
    about = {"passphrase": PASSPHRASE, "source": f"{HERE}/source", "tiers": TIERS, "backups": backups}
    with open(f"{HERE}/about.json", "w", encoding="utf-8") as file:
        json.dump(about, file, indent=1)
    with tarfile.open(output, "w:xz", preset=9) as tar:
        for name in ("about.json", "source", "state", *TIERS):
            tar.add(f"{HERE}/{name}", name)
    shutil.rmtree(HERE)


def _write_config() -> None:
    lines = [f'sources = ["{HERE}/source"]', f'state_dir = "{HERE}/state"']
    for name in TIERS:
        os.makedirs(f"{HERE}/{name}")
        lines += ["[[tier]]", f'name = "{name}"', f'url = "file://{HERE}/{name}"']
    with open(f"{HERE}/agent.toml", "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _run(command: str, *arguments: str) -> str:
    environment = {**os.environ, "TANDEM_PASSPHRASE": PASSPHRASE, "TANDEM_CONFIG": f"{HERE}/agent.toml"}
    return subprocess.run(
        [command, *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout


# The source, and what becomes of it


def _first(make: random.Random) -> None:
    words = [bytes(make.choices(b"abcdefghijklmnop", k=make.randint(3, 9))) for _ in range(300)]
    for i in range(40):
        folder = f"{HERE}/source/folder-{i % 5}/deep-{i % 3}"
        os.makedirs(folder, exist_ok=True)
        _put(f"{folder}/file-{i}.txt", b" ".join(make.choices(words, k=make.randint(1, 500))))
    _put(f"{HERE}/source/empty", b"")
    _put(f"{HERE}/source/name-\N{SNOWMAN}", b"a name that is not ASCII")
    _put(
        f"{HERE}/source/big.img",
        make.randbytes(30_000) + b"0123456789abcdef" * 120_000 + make.randbytes(9_000),
    )
    os.makedirs(f"{HERE}/source/empty-folder")
    os.symlink("../empty", f"{HERE}/source/folder-0/link")
    os.symlink("nowhere", f"{HERE}/source/dangling")
    os.link(f"{HERE}/source/folder-1/deep-1/file-1.txt", f"{HERE}/source/hard-link")


def _edit(make: random.Random) -> None:
    for i in make.sample(range(40), 5):
        _put(
            f"{HERE}/source/folder-{i % 5}/deep-{i % 3}/file-{i}.txt",
            make.randbytes(make.randint(100, 3_000)),
        )


def _nothing(_make: random.Random) -> None:
    pass


def _grow(make: random.Random) -> None:
    with open(f"{HERE}/source/big.img", "ab") as file:
        file.write(make.randbytes(20_000) + b"fedcba9876543210" * 50_000)
    for i in range(20):
        _put(f"{HERE}/source/folder-2/new-{i}", make.randbytes(make.randint(1, 2_000)))


def _remove(_make: random.Random) -> None:
    shutil.rmtree(f"{HERE}/source/folder-3")
    os.unlink(f"{HERE}/source/dangling")


def _put(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _settle(folder: str, seconds: int) -> None:
    """Times that are the same whenever this is made; what a change wrote has the time of that change."""
    for place, folders, files in os.walk(folder, topdown=False):
        for name in [*files, *folders, "."]:
            if os.lstat(f"{place}/{name}").st_mtime > _START + 100_000:
                os.utime(f"{place}/{name}", (seconds, seconds), follow_symlinks=False)


def _taken(folder: str) -> dict[str, list[object]]:
    """Kind, mode, time and what it holds of every path (in hex) below ``folder``."""
    return {
        path.hex(): [row[0], row[1], row[4], row[5], row[6].hex()]
        for path, row in manifest.take(folder).items()
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
