"""Bad data on a tier, documents: claims, records, epochs, identity (trust.md 11 to 17, 22, 23, 25; issue 4, "Bad
input"), with the real commands on a vault in a folder that somebody has changed, beside a second tier that is good.

In each case: the right exit code, one clear line, no traceback; what was damaged is in quarantine, never deleted; and
with the other tier good every backup restores, before and after. Case by case: what is done to the vault; what must
happen; where else it is tested (in unit/ unless another folder is named).

11 zero-length record: claim, record, epoch, identity emptied, the newest and old ones; damaged: moved aside and
   written again, old ones by a full comparison; test_tier.
12 torn record: the same cut at two thirds; the same; test_tier_damage (many lengths).
13 bit flip at every offset: one flip; the same, above the head exit 4; test_tier_damage, test_identity, test_revision
   (every offset), properties/test_format_damage, test_bad_input.
14 record from another tier: another tier's and repository's documents; damaged; with an identity of another tier it
   is offline, of another repository blocked; test_revision, test_verdict.
15 old valid record: at another number, damaged, above the head exit 4; the whole tier of yesterday: rolled back, level
   after one synchronisation; test_verdict, test_resync.
16 revision 2^64-1: claim, record and epoch of the last number; passed over, the epoch is a takeover: exit 4;
   test_tier_damage.
17 duplicate revision: other good bytes at a number of ours; second installation, exit 4, nothing written; test_verdict.
22 deep msgpack: 100,000 arrays in each other as a document; damaged, in little memory; test_envelope.
23 lying length: 9 MiB appended, a terabyte in place of a document; damaged, in little memory; test_revision.
25 unknown version: each document of a newer format or feature; blocked, "upgrade tandem", the other tier goes on;
   test_revision, test_verdict.

Objects (18 to 24, and 23, 25 of objects) are in test_tier_objects.py, hostile servers in test_hostile_tier.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from blake3 import blake3
from tests.support.desk import Desk
from tests.support.tierfiles import HEAD, Bench, Forger, TierFiles

from tandem_protocol import names

CLAIM, RECORD, EPOCH = names.claim_path, names.record_path, names.epoch_path
NEWEST = {"record": RECORD(HEAD), "claim": CLAIM(HEAD), "epoch": EPOCH(1), "identity": names.IDENTITY}
OLD = {"record": RECORD(2), "claim": CLAIM(2), "first record": RECORD(1)}
DEEP = b"\x91" * 100_000 + b"\xc0" + bytes(64)
MEMORY = 1024
"""MiB of addresses for a command: three times what it takes, and nothing beside a terabyte."""

HARM: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "torn": lambda data: data[: len(data) * 2 // 3],
    "flipped": lambda data: data[:40] + bytes([data[40] ^ 4]) + data[41:],
    "deep": lambda data: data[:12] + DEEP,
    "long": lambda data: data + bytes(9 << 20),
}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> TierFiles:
    """A tier of somebody else's repository, as far as ours."""
    folder = tmp_path_factory.mktemp("stranger")
    desk = Desk(folder, {"vault": str(folder / "vault")})
    desk.init()
    for _ in range(HEAD - 1):
        desk.must("backup")
    return TierFiles(folder / "vault")


def is_as_before(bench: Bench, path: str, good: bytes) -> bool:
    """A claim has its time under seal: written again, only its number and nonce are the same."""
    return path.endswith(".claim") or bench.vault.read(path) == good


# 11, 12, 13, 22, 23


@pytest.mark.parametrize("harm", HARM)
def test_what_was_written_last_is_mended_at_the_next_contact(bench: Bench, harm: str) -> None:
    """One kind of document after the other, then all but what says whose the tier is."""
    good = {path: bench.vault.read(path) for path in NEWEST.values()}
    for paths in (*([path] for path in good), [NEWEST["identity"], NEWEST["epoch"], NEWEST["record"]]):
        bad = {path: HARM[harm](bench.vault.read(path)) for path in paths}
        for path, data in bad.items():
            bench.vault.write(path, data)
        now = bench.tiers_now()
        assert [tier["state"] for tier in now.values()] == ["online", "online"]
        for path, data in bad.items():
            assert data in bench.vault.quarantined(path)
            assert is_as_before(bench, path, good[path])
    bench.latest_from("--from", bench.tiers["vault"])


def test_where_nothing_is_readable_that_was_ours_nobody_writes(bench: Bench) -> None:
    """It may be any disk; the other tier goes on, and the line says what is the matter."""
    for path in {*NEWEST.values(), *map(CLAIM, range(1, HEAD + 1))}:
        bench.vault.write(path, HARM["torn"](bench.vault.read(path)))
    before = bench.vault.all()
    now = bench.tiers_now()["vault"]
    assert now["state"] == "offline" and "identity file is damaged" in now["reason"]
    assert bench.backup_on() == {"second"}
    assert bench.vault.all() == before


def test_a_terabyte_in_place_of_a_document_is_not_read(bench: Bench) -> None:
    for path in (*NEWEST.values(), OLD["record"]):
        good = bench.vault.read(path)
        bench.vault.sparse(path, 1 << 40)
        words = ["tiers"] if path != OLD["record"] else ["backups", "--from", bench.tiers["vault"]]
        assert bench.within(MEMORY, *words).returncode == 0
        assert path == OLD["record"] or is_as_before(bench, path, good)
    assert bench.tiers_now()["vault"]["state"] == "online"


@pytest.mark.parametrize("harm", ["empty", "flipped", "deep"])
def test_old_revisions_are_read_around_and_mended_by_a_full_comparison(bench: Bench, harm: str) -> None:
    """What no look reads any more. Until then a reader of the vault alone is told, and loses nothing."""
    good = {path: bench.vault.read(path) for path in OLD.values()}
    bad = {path: HARM[harm](data) for path, data in good.items()}
    for path, data in bad.items():
        bench.vault.write(path, data)
    told = bench.run("restore", "latest", "--to", str(bench.folder / harm), "--from", bench.tiers["vault"])
    assert told.returncode == 0, told.stderr
    assert "revision 2 is passed over" in told.stderr
    bench.must("sync", "--full")
    for path, data in bad.items():
        assert bench.vault.quarantined(path) == [data]
        assert is_as_before(bench, path, good[path])
    bench.everything_from("--from", bench.tiers["vault"])


# 14


def test_documents_of_another_tier_or_repository(bench: Bench, stranger: TierFiles) -> None:
    """Good ones, but not of here. A record is the same on every tier, so that of ours is no damage at all."""
    for source in (bench.second, stranger):
        for path in (RECORD(HEAD), CLAIM(HEAD), EPOCH(1)):
            good, other = bench.vault.read(path), source.read(path)
            bench.vault.write(path, other)
            assert bench.tiers_now()["vault"]["state"] == "online"
            assert is_as_before(bench, path, good)
            assert other == good or other in bench.vault.quarantined(path)
    bench.everything_from("--from", bench.tiers["vault"])


@pytest.mark.parametrize("whose", ["tier", "repository"])
def test_an_identity_of_somewhere_else(bench: Bench, stranger: TierFiles, whose: str) -> None:
    """Nobody writes there, and nothing is mended: it is another disk, or somebody else's."""
    other = bench.second if whose == "tier" else stranger
    bench.vault.write(names.IDENTITY, other.read(names.IDENTITY))
    before = bench.vault.all()
    now = bench.tiers_now()["vault"]
    assert now["state"] == {"tier": "offline", "repository": "blocked"}[whose]
    assert "another" in now["reason"]
    assert bench.backup_on() == {"second"}
    assert bench.vault.all() == before
    bench.everything_from()


# 15


def test_an_old_record_at_a_newer_number_is_damage(bench: Bench) -> None:
    good, old = bench.vault.read(RECORD(HEAD)), bench.vault.read(RECORD(HEAD - 1))
    bench.vault.write(RECORD(HEAD), old)
    assert bench.tiers_now()["vault"]["state"] == "online"
    assert bench.vault.read(RECORD(HEAD)) == good
    assert bench.vault.quarantined(RECORD(HEAD)) == [old]


def test_old_documents_above_the_head_are_somebodys(bench: Bench) -> None:
    """Nobody knows how they came to a number that we have not written: nothing is written before a person looks."""
    for path, old in ((RECORD, RECORD(HEAD)), (CLAIM, CLAIM(HEAD))):
        bench.vault.write(path(HEAD + 1), bench.vault.read(old))
        assert f"revision {HEAD + 1}" in bench.second_installation()
        assert f"revision {HEAD + 1}" in bench.second_installation("sync", "--full")
    bench.everything_from()
    for path in (CLAIM, RECORD):
        (bench.vault.folder / path(HEAD + 1)).unlink()
    assert bench.backup_on() == {"vault", "second"}


def test_the_tier_of_yesterday(bench: Bench) -> None:
    """A snapshot of the storage put back: told once, harmless, and level after one synchronisation."""
    yesterday = bench.folder / "yesterday"
    shutil.copytree(bench.vault.folder, yesterday)
    bench.must("backup")
    shutil.rmtree(bench.vault.folder)
    yesterday.rename(bench.vault.folder)
    now = bench.tiers_now()["vault"]
    assert now["state"] == "lagging" and "rolled back" in now["reason"]
    assert bench.backup_on() == {"second"}
    bench.must("sync")
    assert bench.tiers_now()["vault"]["state"] == "online"
    bench.everything_from("--from", bench.tiers["vault"])


# 16


def test_the_last_number_of_all(bench: Bench) -> None:
    """Junk there is no trouble, and neither is what a thief of this installation's key has signed."""
    last, forger = names.MAX_NUMBER, Forger(bench)
    for claim, record in [(b"junk", b"junk"), (forger.claim("vault", last), forger.record(last))]:
        bench.vault.write(CLAIM(last), claim)
        bench.vault.write(RECORD(last), record)
        assert bench.backup_on() == {"vault", "second"}
        bench.latest_from("--from", bench.tiers["vault"])


def test_the_last_epoch_of_all(bench: Bench) -> None:
    """Readable or not, somebody has taken over: nothing is written, and reading goes on."""
    bench.vault.write(EPOCH(names.MAX_NUMBER), b"junk")
    assert f"epoch {names.MAX_NUMBER}" in bench.second_installation()
    bench.latest_from()
    bench.everything_from("--from", bench.tiers["vault"])


# 17


def test_other_bytes_at_a_number_of_ours(bench: Bench) -> None:
    """Signed with our key, so a clone wrote it: under a nonce of its own, or the very one of ours."""
    forger = Forger(bench)
    nonce = forger.nonce(bench.vault.read(CLAIM(HEAD)))
    for path, data in [
        (RECORD(HEAD), forger.record(HEAD)),
        (RECORD(HEAD), forger.record(HEAD, nonce)),
        (CLAIM(HEAD), forger.claim("vault", HEAD)),
    ]:
        good = bench.vault.read(path)
        bench.vault.write(path, data)
        assert "clone or a restored image" in bench.second_installation()
        bench.vault.write(path, good)
    good = bench.vault.read(RECORD(2))
    bench.vault.write(RECORD(2), forger.record(2))
    assert "revision 2" in bench.second_installation("sync", "--full")
    bench.vault.write(RECORD(2), good)
    assert bench.backup_on() == {"vault", "second"}


# 25


def newer_identity(data: bytes) -> bytes:
    body = data[:5] + b"\2" + data[6:-32]
    return body + blake3(body).digest()


def newer(forger: Forger, path: str, data: bytes) -> list[bytes]:
    """``data`` as newer programs might write it."""
    if path == names.IDENTITY:
        return [newer_identity(data)]
    if path == EPOCH(1):
        return [forger.certificate({}, version=2)]
    made = [forger.signed(data, lambda body: None, version=2)]
    if path == RECORD(HEAD):
        made.append(forger.signed(data, lambda body: body.update(kind="dance")))
        made.append(forger.signed(data, lambda body: body.update(read_requires=["colours"])))
    return made


@pytest.mark.parametrize("path", NEWEST.values(), ids=NEWEST)
def test_a_document_of_a_newer_program(bench: Bench, path: str) -> None:
    """Nothing of it is moved aside or written over; the other tier goes on."""
    for data in newer(Forger(bench), path, bench.vault.read(path)):
        bench.vault.write(path, data)
        before = bench.vault.all()
        now = bench.tiers_now()["vault"]
        assert now["state"] == "blocked" and now["reason"].endswith("upgrade tandem")
        assert bench.backup_on() == {"second"}
        if path in (names.IDENTITY, RECORD(HEAD)):  # a reader has no use for the others
            assert bench.fails(1, "backups", "--from", bench.tiers["vault"], says="upgrade tandem")
        assert bench.vault.all() == before
        bench.latest_from("--tier", "second")
        bench.reset()


def test_both_tiers_of_a_newer_program(bench: Bench) -> None:
    """Then there is nothing to write to, and the one line says why."""
    forger = Forger(bench)
    for tier in ("vault", "second"):
        files = TierFiles(bench.tiers[tier])
        files.write(CLAIM(HEAD + 1), forger.signed(forger.claim(tier, HEAD + 1), lambda _: None, 2))
    assert "upgrade tandem" in bench.fails(1, "backup", says="vault: revision")
    assert bench.run("sync").returncode == 5
    bench.latest_from()
