"""Bad data on a tier, objects: packs, index, manifests, key slots, trees (trust.md 18 to 25; issue 4, "Bad input"),
with the real commands on a vault in a folder that somebody has changed, beside a second tier that is good.

Case by case: what is done; what must happen; where else it is tested (in unit/). Never wrong bytes, never a traceback.

18 chunk swapped with another valid one: packs of one size exchanged; the vault alone 6, with the other tier all; it is
   noted, and the next synchronisation mends; test_pack, test_restore_damage.
19 manifest swapped: snapshots exchanged, index segments, key slots; the same, segments stand in for each other, key
   slots are written again at contact; test_fetch, test_reading.
20 snapshot deleted: from the vault, from both; the same, gone everywhere 6 and the others restore; test_restore_damage.
21 zstd bomb: a frame of 2 GiB sealed with the keys; damage, 6, in little memory; test_seal.
22 deep msgpack: a manifest and a page nested or wide without end; damage, 6, in little memory; test_envelope.
23 lying length: a terabyte in place of objects; damage, the other tier serves; test_fetch, test_pack.
24 tree cycle: cannot be made with hashes. Folders that share what is below them 2^40 times, or are 5,000 deep: ls and
   restore stream in bounded memory and stop at Ctrl-C (there is no cap: sharing is nothing unusual), depth is limited
   to 4,096 and what is above is told; test_treewalk.
25 unknown version: a newer program's objects; "upgrade tandem", 1; older backups restore, segments and key slots are
   stood in for; properties/test_format_damage.

Documents (11 to 17, and 22, 23, 25 of documents) are in test_tier_data.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from tests.support.desk import PASSPHRASE, TANDEM
from tests.support.smallrepo import Node, SmallRepo, file
from tests.support.tierfiles import HEAD, Bench, Forger, TierFiles

from tandem_protocol import names, pack
from tandem_protocol.envelope import DocType, pack_header
from tandem_protocol.revision import Kind, ObjectRef
from tandem_protocol.seal import seal_part
from tandem_protocol.tree import DIR

MEMORY = 1024
"""MiB of addresses for a command: three times what it takes, and nothing beside what the bombs unfold to."""


def vault_alone(bench: Bench, code: int) -> subprocess.CompletedProcess[str]:
    """The latest backup from the vault alone: it has to end with ``code``, and nothing wrong is restored."""
    target = bench.folder / "alone"
    done = bench.within(MEMORY, "restore", "latest", "--to", str(target), "--from", bench.tiers["vault"])
    assert done.returncode == code, done.stdout + done.stderr
    for path in target.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == Path("/", path.relative_to(target)).read_bytes()
    subprocess.run(["rm", "-rf", str(target)], check=True)
    return done


def is_healed_by_a_synchronisation(bench: Bench) -> None:
    """After restores that met it, damage is known; the next synchronisation makes the vault whole, and what was bad
    there is in quarantine."""
    bench.everything_from()
    now = bench.tiers_now()["vault"]
    assert now["state"] == "lagging" and now["missing_objects"] and not now["missing_revisions"]
    assert now["reason"] == "objects are damaged or missing there: tandem sync mends them"
    before = bench.vault.all()
    bench.must("sync")
    assert bench.tiers_now()["vault"]["state"] == "online"
    for where in ("packs", "index", "snapshots", "keys"):
        assert bench.vault.all(where) == bench.second.all(where)
    after = bench.vault.all()
    kept = {data for path, data in after.items() if path.startswith(names.DAMAGED)}
    assert all(data in kept for path, data in before.items() if after.get(path) != data)


# 18, 19, 20, 23: objects that are not what they should be


def same_size(files: TierFiles, where: str) -> tuple[str, str]:
    """Two objects in ``where`` of one size, so that no listing tells."""
    paths = files.objects(where)
    return next((a, b) for a in paths for b in paths if a < b and len(files.read(a)) == len(files.read(b)))


def swap_packs(bench: Bench) -> None:
    bench.vault.swap(*same_size(bench.vault, "packs"))


def swap_manifests(bench: Bench) -> None:
    for other in bench.vault.objects("snapshots")[1:]:
        bench.vault.swap(bench.vault.objects("snapshots")[0], other)


def delete_manifests(bench: Bench) -> None:
    for path in bench.vault.objects("snapshots"):
        (bench.vault.folder / path).unlink()


def terabytes(bench: Bench) -> None:
    for path in [*bench.vault.objects("packs"), *bench.vault.objects("snapshots")]:
        bench.vault.sparse(path, 1 << 40)


OBJECTS: dict[str, Callable[[Bench], None]] = {
    "18 packs swapped": swap_packs,
    "19 manifests": swap_manifests,
    "20 no manifests": delete_manifests,
    "23 terabytes": terabytes,
}


@pytest.mark.parametrize("harm", OBJECTS.values(), ids=OBJECTS)
def test_objects_that_are_not_what_they_should_be(bench: Bench, harm: Callable[[Bench], None]) -> None:
    harm(bench)
    vault_alone(bench, 6)
    is_healed_by_a_synchronisation(bench)


def tier_alone(bench: Bench, code: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A backup from the vault alone, as local state knows it: it has to end with ``code``; what is restored stays."""
    target = bench.folder / "of the vault"
    subprocess.run(["rm", "-rf", str(target)], check=True)
    done = bench.run("restore", *(words or ("latest",)), "--to", str(target), "--tier", "vault")
    bench.clean(done)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_damaged_vault_alone_gives_what_is_good_there_also_when_the_damage_is_known(bench: Bench) -> None:
    """One block of one file in a backup that came there whole. The first restore makes it known."""
    bench.vault.flip(max(bench.vault.objects("packs"), key=lambda path: len(bench.vault.read(path))))
    whole = {path.name for path in bench.source.rglob("*") if path.is_file()}
    for _ in range(2):
        for words in (("latest",), (json.loads(bench.must("backups", "--json"))[-1]["name"],)):
            done = tier_alone(bench, 6, *words)
            assert (
                "not good on vault and not restored: without --tier the others are asked too" in done.stderr
            )
            assert "large: not good on vault\n" in done.stderr
            assert "no tier" not in done.stderr and "other tiers" not in done.stderr
            found = {p.name for p in (bench.folder / "of the vault").rglob("*") if p.is_file()}
            assert found == whole - {"large"}
        bench.must("ls", "latest", "--tier", "vault")
    bench.must("sync")
    tier_alone(bench, 0)


def test_a_manifest_gone_from_the_vault_is_damage_there_and_nothing_that_never_came(bench: Bench) -> None:
    delete_manifests(bench)
    for _ in range(2):
        said = tier_alone(bench, 6).stderr
        assert (
            "manifest" in said and " is not good on vault: without --tier the others are asked too\n" in said
        )


def test_index_segments_swapped_and_as_long_as_nothing_is(bench: Bench) -> None:
    """What they say is in the packs too: even the vault alone restores everything."""
    paths = bench.vault.objects("index")
    bench.vault.swap(*paths[:2])
    bench.vault.sparse(paths[2], 1 << 40)
    assert "packs are read instead" in vault_alone(bench, 0).stderr
    bench.must("sync", "--full")
    bench.latest_from()


def test_key_slots_swapped(bench: Bench) -> None:
    good = bench.vault.all("keys")
    bench.vault.swap(*good)
    bench.fails(1, "backups", "--from", bench.tiers["vault"], says="key slot")
    bench.must("tiers")
    assert bench.vault.all("keys") == good
    bench.latest_from("--from", bench.tiers["vault"])


def test_a_manifest_gone_everywhere(bench: Bench) -> None:
    """Its backup cannot be had, which is said; the others can."""
    for tier in (bench.vault, bench.second):
        newest = json.loads(bench.must("backups", "--json"))[-1]["snapshot"]
        (tier.folder / f"snapshots/{newest[:2]}/{newest}").unlink()
    line = bench.fails(6, "restore", "latest", "--to", str(bench.folder / "gone"), says="manifest")
    assert "tandem backups" in line
    oldest = json.loads(bench.must("backups", "--json"))[0]["name"]
    bench.same(backup=oldest, expected=bench.sources[0])
    bench.same("--from", bench.tiers["vault"], backup=oldest, expected=bench.sources[0])


def test_a_thousand_strange_key_slots(bench: Bench) -> None:
    """Whoever keeps the tier can put any number there, each named as it should be: none is tried, nothing waits."""
    for number in range(1000):
        junk = b"TNDM\x06\x01\x01\0\0\0\0\0" + number.to_bytes(8, "big")
        bench.vault.write(f"keys/{names.object_name(junk).hex()}", junk)
    bench.latest_from("--from", bench.tiers["vault"])


# 21, 22, 24: what a hostile holder of the keys can seal


def plant(bench: Bench, root: Callable[[SmallRepo], bytes], sealed: bytes | None = None) -> None:
    """A backup on the vault, good in every signature, of a tree that no scanner has made; ``sealed`` in place of its
    manifest. Read with ``--from``: for this installation it is somebody else's."""
    forger = Forger(bench)
    repo = SmallRepo(("vault",))
    repo.ring = forger.ring
    snapshot = repo.snapshot(root(repo))
    if sealed is not None:
        snapshot = repo.put(repo.live[snapshot].type, sealed)
    for path, data in repo.stores["vault"].shared.items():
        bench.vault.write(path, data)
    added = tuple(ObjectRef(o.type, o.name, o.size) for o in repo.live.values())
    about = {"id": "ab" * 16, "name": "26112299", "status": "complete", "snapshot": snapshot.hex()}
    record = forger.record(HEAD + 1, kind=Kind.BACKUP, details={"backup": about}, added=added)
    bench.vault.write(names.record_path(HEAD + 1), record)
    bench.vault.write(names.claim_path(HEAD + 1), forger.claim("vault", HEAD + 1))


def shared(times: int) -> Callable[[SmallRepo], bytes]:
    """Folders that each hold the next one twice: 2^times paths to one file, in a few kilobytes."""

    def make(repo: SmallRepo) -> bytes:
        below = repo.tree({b"file": file(b"x" * 100)})
        for _ in range(times):
            below = repo.tree({b"a": Node(DIR, content=below), b"b": Node(DIR, content=below)})
        return below

    return make


def deep(times: int) -> Callable[[SmallRepo], bytes]:
    def make(repo: SmallRepo) -> bytes:
        below = repo.tree({b"file": file(b"x" * 100)})
        for _ in range(times):
            below = repo.tree({b"a": Node(DIR, content=below)})
        return below

    return make


@pytest.mark.parametrize("words", [["ls", "latest", "-R"], ["restore", "latest", "--to", "endless"]])
def test_a_tree_with_more_paths_than_anyone_can_count_streams_and_can_be_stopped(
    bench: Bench, words: list[str]
) -> None:
    plant(bench, shared(40))
    limit = ["sh", "-c", 'ulimit -v "$0" && exec "$@"', str(MEMORY << 10)]
    running = subprocess.Popen(
        [*limit, TANDEM, *words, "--from", bench.tiers["vault"]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TANDEM_PASSPHRASE": PASSPHRASE},
        cwd=bench.folder,
    )
    assert running.stdout is not None and running.stderr is not None
    try:
        if words[0] == "ls":
            os.read(running.stdout.fileno(), 1)
        deepest = bench.folder / "endless" / "/".join("a" * 40)
        while words[0] == "restore" and running.poll() is None and not deepest.exists():
            os.sched_yield()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    finally:
        running.kill()
        subprocess.run(["rm", "-rf", str(bench.folder / "endless")], check=True)
    assert running.returncode == 130, said
    assert b"interrupted" in said


def test_a_tree_deeper_than_any(bench: Bench) -> None:
    """What is above the limit is told, then one line; restoring gives what can be had and says what cannot."""
    plant(bench, deep(5000))
    done = bench.within(MEMORY, "ls", "latest", "-R", "--from", bench.tiers["vault"])
    assert done.returncode == 6
    assert len(done.stdout.splitlines()) == 4096
    assert done.stderr.startswith("tandem: folders nested deeper than 4096") and done.stderr.count("\n") == 1
    assert len(done.stderr) < 1000


def nested(_: Forger) -> bytes:
    return b"\x91" * 100_000 + b"\xc0"


def wide(_: Forger) -> bytes:
    """Two million maps in two megabytes: each would take two hundred bytes and more."""
    return b"\xdd" + (2_000_000).to_bytes(4, "big") + b"\x80" * 2_000_000


@pytest.mark.parametrize("payload", [nested, wide])
def test_a_manifest_or_page_that_unfolds_without_end(
    bench: Bench, payload: Callable[[Forger], bytes]
) -> None:
    forger = Forger(bench)
    ring, kind = forger.ring, DocType.SNAPSHOT
    number = ring.current_key(kind)
    bomb = seal_part(ring.cipher(kind, number), ring.repository_id, kind, number, payload(forger))
    header = pack_header(kind, suite=1, key_number=number)
    plant(bench, lambda repo: repo.tree({b"f": file(b"x")}), header + bomb)
    for words in (["ls", "latest"], ["restore", "latest", "--to", "bomb"]):
        done = bench.within(MEMORY, *words, "--from", bench.tiers["vault"])
        assert done.returncode == 6 and done.stderr.startswith("tandem: snapshot"), done.stderr
    bench.reset()
    plant(bench, lambda repo: repo.blob(payload(forger), DocType.TREE_PACK))
    for words in (["ls", "latest"], ["restore", "latest", "--to", "bomb"]):
        done = bench.within(MEMORY, *words, "--from", bench.tiers["vault"])
        assert done.returncode == 6 and "tree page" in done.stderr, done.stderr


def unfolds(size: int, says_so: bool) -> bytes:
    """Zeros compressed, whose length its header gives or keeps to itself."""
    stream = zstandard.ZstdCompressor(level=3).compressobj(size=size if says_so else -1)
    return b"".join(stream.compress(bytes(1 << 20)) for _ in range(size >> 20)) + stream.flush()


@pytest.mark.parametrize("says_so", [True, False])
def test_a_frame_that_unfolds_to_gigabytes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, says_so: bool
) -> None:
    """Sealed by somebody who has the keys. The trees are as they should be, the content is not."""
    payload = unfolds(2 << 30, says_so)

    def bomb(data: bytes, level: int = 1) -> tuple[int, bytes]:
        return (1, payload) if b"boom" in bytes(data) else (0, bytes(data))

    monkeypatch.setattr(pack, "compress", bomb)
    plant(bench, lambda repo: repo.tree({b"bomb": file(b"boom" * 1000)}))
    target = bench.folder / "bomb"
    done = bench.within(MEMORY, "restore", "latest", "--to", str(target), "--from", bench.tiers["vault"])
    assert done.returncode == 6 and "bomb: " in done.stderr, done.stderr
    assert list(target.iterdir()) == []


NEWER = """
    import dataclasses
    import sys
    import tandem_protocol.envelope as envelope

    kinds, original, read = sys.argv[1], envelope.pack_header, envelope.read_header

    def newer(doc_type, version=1, suite=0, key_number=0):
        return original(doc_type, 3 if doc_type.name == kinds else version, suite, key_number)

    def reads_newer(data, expect, suite=None, newest=1):
        header = read(data, expect, suite, 3)
        return dataclasses.replace(header, version=min(header.version, newest))

    envelope.pack_header, envelope.read_header = newer, reads_newer
    if kinds == "PAGE":
        import tandem_protocol.tree as tree

        tree.VERSION = 2
    sys.argv = ["tandem", *sys.argv[2:]]
    from tandem_agent.cli import main

    main()
"""


def by_a_newer_program(bench: Bench, kind: str, *words: str) -> None:
    """The real command, as a program runs it that writes objects of ``kind`` in format version 3."""
    command = [sys.executable, "-c", textwrap.dedent(NEWER), kind, *words]
    environment = {**os.environ, "TANDEM_CONFIG": str(bench.config), "TANDEM_PASSPHRASE": PASSPHRASE}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=bench.folder, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["SNAPSHOT", "PAGE"])
def test_a_backup_of_a_newer_program(bench: Bench, kind: str) -> None:
    (bench.source / "d" / "new").write_text("news\n" * 50)
    by_a_newer_program(bench, kind, "backup")
    for where in (["--from", bench.tiers["vault"]], []):
        done = bench.run("ls", "latest", *where)
        bench.clean(done)
        assert done.returncode == 1 and done.stderr.rstrip().endswith("upgrade tandem"), done.stderr
        done = bench.run("restore", "latest", "--to", str(bench.folder / "newer"), *where)
        bench.clean(done)
        assert done.returncode == 1 and "upgrade tandem" in done.stderr, done.stderr
    bench.everything_from()
    assert bench.backup_on() == {"vault", "second"}
    bench.latest_from("--from", bench.tiers["vault"])


def test_index_segments_and_key_slots_of_a_newer_program(bench: Bench) -> None:
    """Others stand in for them: packs name what is in them, and the other slot opens."""
    (bench.source / "d" / "new").write_text("news\n" * 50)
    by_a_newer_program(bench, "INDEX_SEGMENT", "backup")
    bench.latest_from("--from", bench.tiers["vault"])
    bench.latest_from()
    (bench.folder / "other").write_text("another passphrase\n")
    by_a_newer_program(bench, "KEY_SLOT", "key", "add", "--new-passphrase-file", str(bench.folder / "other"))
    bench.latest_from("--from", bench.tiers["vault"])
    line = bench.fails(
        1, "backups", "--from", bench.tiers["vault"], passphrase="another passphrase", says="key slot"
    )
    assert "upgrade tandem" in line
    assert bench.backup_on() == {"vault", "second"}
