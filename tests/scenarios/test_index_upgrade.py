"""A repository of index format 1 under today's program: every command reads it as it is, the first backup converts it
by itself, whatever happens meanwhile (B2). The repository is the one of tests/data, written by an older program."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.badblock import bad_blocks
from tests.support.format1 import SEGMENTS, Format1
from tests.support.warm import run_warm

from tandem_agent import upgrading
from tandem_agent.cli.backup import _show
from tandem_agent.config import TierConfig
from tandem_agent.places import parse_place
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.segments import encode_checked
from tandem_agent.takeover import take_over
from tandem_agent.tier_changes import add_tier, replace_tier
from tandem_agent.wiring import open_agent, open_state
from tandem_protocol import revision
from tandem_protocol.errors import Corrupt, NoTierReachable, Refused, Unavailable, Unsupported
from tandem_protocol.index import decode_segment, encode_segment
from tandem_protocol.names import ObjectType, object_path
from tandem_protocol.revision import INDEX_2, Kind
from tandem_protocol.stores.directory import DirectoryStore


@pytest.fixture
def old(tmp_path: Path) -> Format1:
    return Format1(tmp_path)


def tandem(old: Format1, *words: str) -> Any:
    """A command's whole result; its JSON where that was asked for."""
    done = run_warm(words, {**old.environment(), "HOME": str(old.folder)}, old.folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "--json" in words else done.stdout


def live_forms(old: Format1, tier: str) -> list[int]:
    """The form of each live segment, as the tier has it."""
    with open_state(old.config) as state:
        live = state.live_of(ObjectType.INDEX)
    return [(old.folder / tier / object_path(o.type, o.name)).read_bytes()[5] for o in live.values()]


def kinds(old: Format1) -> list[Kind]:
    with open_state(old.config) as state:
        return [state.record(number).kind for number in state.journal]


def files(old: Format1) -> dict[Path, bytes]:
    """All that is on the tiers."""
    found = (path for tier in old.tiers for path in (old.folder / tier).rglob("*"))
    return {path: path.read_bytes() for path in found if path.is_file()}


async def level(old: Format1) -> None:
    """Synchronise the tiers."""
    async with open_agent(old.config, lambda: old.passphrase) as agent:
        result = await sync(agent, (), False, Progress())
    assert [tier.state for tier in result.tiers] == ["online", "online"]


async def is_converted(old: Format1, *tiers: str) -> None:
    """Nothing is left to convert, and every backup restores from each of the tiers alone."""
    with open_state(old.config) as state:
        assert INDEX_2 in state.requires().read and INDEX_2 in state.requires().write
        assert state.check_due() == 0
    for tier in tiers or old.tiers:
        assert set(live_forms(old, tier)) == {2}
        for number in (0, 3, 5):
            await old.same(tier, number)
    done = await old.backup()
    assert (done.index_upgrade, done.warnings) == (None, [])


# Before


def test_every_command_reads_it_as_it_is(old: Format1) -> None:
    names = [backup["name"] for backup in old.backups]
    assert [found["name"] for found in tandem(old, "backups", "--json")] == names
    assert [tier["state"] for tier in tandem(old, "tiers", "--json")["tiers"]] == ["online", "online"]
    assert "tmp" in tandem(old, "ls", "latest")
    tandem(old, "sync", "--full")
    for number, backup in enumerate(old.backups):
        tandem(old, "restore", backup["id"], "--to", str(old.folder / f"restored-{number}"))
        assert old.wrong(old.folder / f"restored-{number}", number) == []
    for tier in old.tiers:
        where = ("--from", old.url(tier))
        assert [found["name"] for found in tandem(old, "backups", "--json", *where)] == names
        assert "tmp" in tandem(old, "ls", "latest", *where)
        tandem(
            old,
            "restore",
            old.backups[2]["id"],
            "--to",
            str(old.folder / tier / ".." / f"from {tier}"),
            *where,
        )
        assert old.wrong(old.folder / f"from {tier}", 2) == []
        assert old.forms(tier) == [1] * SEGMENTS
    assert Kind.UPGRADE not in kinds(old)


# The conversion


async def test_the_first_backup_converts_it(old: Format1) -> None:
    done = await old.backup()
    upgrade = done.index_upgrade
    assert upgrade is not None and done.status == "complete" and done.warnings == []
    assert (upgrade.packs, upgrade.segments_before, upgrade.segments_after) == (11, SEGMENTS, 1)
    assert upgrade.entries == 130 and upgrade.remaining == 0
    assert 0 < upgrade.bytes_after < upgrade.bytes_before
    assert kinds(old)[-2:] == [Kind.UPGRADE, Kind.BACKUP]
    # What was there is deduplicated against.
    assert done.bytes_stored < 8_000
    await is_converted(old)
    again = await old.backup()
    assert again.index_upgrade is None
    assert kinds(old).count(Kind.UPGRADE) == 1


def test_the_command_tells_what_it_did(old: Format1) -> None:
    upgrade = tandem(old, "backup", "--json")["index_upgrade"]
    assert (
        upgrade["packs"] == 11 and upgrade["segments_before"] == SEGMENTS and upgrade["segments_after"] == 1
    )
    assert upgrade["entries"] == 130 and upgrade["bytes_before"] > upgrade["bytes_after"] > 0
    assert tandem(old, "backup", "--json")["index_upgrade"] is None


async def test_for_people(old: Format1, capsys: pytest.CaptureFixture[str]) -> None:
    done = await old.backup()
    assert done.index_upgrade is not None
    _show(dataclasses.replace(done, index_upgrade=dataclasses.replace(done.index_upgrade, remaining=2)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "Index converted to form 2: 130 entries of 11 packs; instead of 5 segments of 6.8 kB now 1 of"
    )
    assert "2 old segments cannot be read now" in lines[1]


def test_killed_at_any_change(old: Format1) -> None:
    """Some of all moments; nothing has to be done by hand after any of them."""
    old.copy("before")
    moments = 0
    for after in range(3, 10_000, 7):
        if not old.killed_backup(after):
            break
        moments += 1
        _check_after_kill(old)
        old.put_back("before")
    assert moments > 8


def _check_after_kill(old: Format1) -> None:
    import asyncio

    async def check() -> None:
        for tier in old.tiers:
            await old.same(tier, 5)  # what was there before is there at any moment
        converted = Kind.UPGRADE in kinds(old)
        done = await old.backup()
        assert (done.index_upgrade is None) == converted
        assert any(tier.has_it for tier in done.tiers)
        # Decided when one tier had all of it; the other is brought level, by the agent itself when it is idle.
        await level(old)
        await is_converted(old)

    asyncio.run(check())


async def test_a_tier_that_was_away_gets_it_by_synchronisation(old: Format1) -> None:
    old.away("remote")
    done = await old.backup()
    assert done.index_upgrade is not None
    await is_converted(old, "vault")
    old.back("remote")
    await old.same("remote", 5)  # a disk of form 1, alone
    await level(old)
    await is_converted(old)


def lost_when_encoding(old: Format1, monkeypatch: pytest.MonkeyPatch, *tiers: str) -> set[str]:
    """The links of these tiers are down from the moment at which the new index is made; as long as they are in the set
    that is given."""
    lost: set[str] = set()
    roots = {str(old.folder / tier): tier for tier in tiers}

    def cut(verb: Any) -> Any:
        async def over_a_link(store: DirectoryStore, *arguments: Any) -> Any:
            if roots.get(store._root) in lost:
                raise Unavailable("the link is down")
            return await verb(store, *arguments)

        return over_a_link

    for name in ("open", "create", "put", "move", "size", "read"):
        monkeypatch.setattr(DirectoryStore, name, cut(getattr(DirectoryStore, name)))

    def encoding(*arguments: Any) -> bytes:
        lost.update(tiers)
        return encode_checked(*arguments)

    monkeypatch.setattr(upgrading, "encode_checked", encoding)
    return lost


async def test_a_tier_that_is_lost_in_the_middle(old: Format1, monkeypatch: pytest.MonkeyPatch) -> None:
    lost_when_encoding(old, monkeypatch, "remote")
    done = await old.backup()
    assert done.index_upgrade is not None
    assert [tier.has_it for tier in done.tiers] == [True, False]
    monkeypatch.undo()
    await is_converted(old, "vault")
    await old.same("remote", 5)
    tandem(old, "sync")
    await is_converted(old)


async def test_every_tier_is_lost_in_the_middle(old: Format1, monkeypatch: pytest.MonkeyPatch) -> None:
    lost_when_encoding(old, monkeypatch, *old.tiers)
    with pytest.raises(NoTierReachable):
        await old.backup()
    monkeypatch.undo()
    assert Kind.UPGRADE not in kinds(old)
    assert (await old.backup()).index_upgrade is not None
    await is_converted(old)


async def test_a_damaged_segment_is_made_again_from_the_packs(old: Format1) -> None:
    for tier in old.tiers:
        old.damage(old.objects(tier, "index")[1])
    done = await old.backup()
    assert done.index_upgrade is not None
    assert (done.index_upgrade.packs, done.index_upgrade.remaining) == (11, 0)
    await is_converted(old)


async def test_a_segment_that_the_only_tier_cannot_read(
    old: Format1, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad block of its disk: no reason to make no backup."""
    old.away("remote")
    bad_blocks(monkeypatch, old.objects("vault", "index")[1:2])
    done = await old.backup()
    assert done.index_upgrade is not None
    assert (done.index_upgrade.packs, done.index_upgrade.remaining) == (11, 0)
    await is_converted(old, "vault")


async def test_a_segment_damaged_here_while_the_other_tier_is_lost(
    old: Format1, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.damage(old.objects("vault", "index")[1])
    read = DirectoryStore.read

    async def cut(store: DirectoryStore, name: str, *more: Any) -> bytes:
        if name.startswith("index/") and store._root.endswith("remote"):
            raise Unavailable("the line is cut")
        return await read(store, name, *more)

    monkeypatch.setattr(DirectoryStore, "read", cut)
    done = await old.backup()
    assert done.index_upgrade is not None
    assert (done.index_upgrade.packs, done.index_upgrade.remaining) == (11, 0)
    monkeypatch.undo()
    await level(old)
    await is_converted(old)


async def test_a_segment_damaged_on_one_tier_is_read_from_the_other(old: Format1) -> None:
    old.damage(old.objects("vault", "index")[0])
    done = await old.backup()
    assert done.index_upgrade is not None and done.index_upgrade.packs == 11
    await is_converted(old)


async def test_a_pack_that_is_not_as_it_should_be_is_found(old: Format1) -> None:
    """The check after it: one pack is gone from one tier, one has another size."""
    gone, cut = old.objects("remote", "packs")[:2]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    done = await old.backup()
    assert done.warnings[0].startswith("index check, tier remote: 2 segments or packs are damaged or missing")
    assert done.index_upgrade is not None and done.index_upgrade.packs == 11
    async with open_agent(old.config, lambda: old.passphrase) as agent:
        result = await sync(agent, (), False, Progress())
    assert [tier.state for tier in result.tiers] == ["online", "online"]
    await is_converted(old)


async def test_what_nobody_can_read_now_stays_named_by_the_old_segment(old: Format1) -> None:
    """A segment and a pack that it names are on no tier that is there: the segment is kept, and converted when it can
    be read again."""
    aside = old.folder / "aside"
    aside.mkdir()
    with open_state(old.config) as state:
        last = max(state.live_of(ObjectType.INDEX).values(), key=lambda o: o.added)
        packs = [o for o in state.live_of(ObjectType.PACK).values() if o.added == last.added]
        moved = [object_path(o.type, o.name) for o in [last, *packs]]
    for path in moved:
        for tier in old.tiers:
            (aside / f"{tier} {Path(path).name}").write_bytes((old.folder / tier / path).read_bytes())
            (old.folder / tier / path).unlink()
    done = await old.backup()
    assert done.index_upgrade is not None
    assert (done.index_upgrade.remaining, done.index_upgrade.packs) == (1, 11 - len(packs))
    assert (await old.backup()).index_upgrade is None  # nothing new to try
    for path in moved:
        for tier in old.tiers:
            (old.folder / tier / path).write_bytes((aside / f"{tier} {Path(path).name}").read_bytes())
    tandem(old, "sync", "--full")
    done = await old.backup()
    assert done.index_upgrade is not None
    assert (done.index_upgrade.segments_before, done.index_upgrade.packs) == (1, len(packs))
    assert done.warnings == []  # no pack is named twice
    await is_converted(old)


async def test_tiers_that_are_away_in_turn(old: Format1) -> None:
    """What one lacks of the old segments is converted when the other is there: once, and not again for ever."""
    with open_state(old.config) as state:
        last = max(state.live_of(ObjectType.INDEX).values(), key=lambda o: o.added)
        packs = [o for o in state.live_of(ObjectType.PACK).values() if o.added == last.added]
    for lacking in (last, *packs):
        (old.folder / "remote" / object_path(lacking.type, lacking.name)).unlink()
    for away, remaining in (("vault", 1), ("remote", 0)):
        old.away(away)
        done = await old.backup()
        assert done.index_upgrade is not None and done.index_upgrade.remaining == remaining
        old.back(away)
    tandem(old, "sync", "--full")
    await is_converted(old)


async def test_a_bad_conversion_replaces_nothing(old: Format1, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was encoded is decoded and compared before it counts."""
    from tandem_agent import segments

    monkeypatch.setattr(segments, "encode_segment", lambda ring, entries: encode_segment(ring, entries[:-1]))
    with pytest.raises(Corrupt, match="does not say what it was made of"):
        await old.backup()
    assert Kind.UPGRADE not in kinds(old)
    monkeypatch.undo()
    assert (await old.backup()).index_upgrade is not None
    await is_converted(old)


async def test_in_several_records(old: Format1, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record has room for so many objects: here for two, one of which is the new segment in the first."""
    monkeypatch.setattr(upgrading, "MAX_OBJECTS", upgrading._LISTS + 2)
    done = await old.backup()
    assert done.index_upgrade is not None and done.index_upgrade.segments_after == 1
    assert kinds(old).count(Kind.UPGRADE) == 3
    await is_converted(old)


async def test_the_same_pack_in_several_segments_is_named_once(old: Format1) -> None:
    """Duplicates are grouped; what is not live is left out."""
    from tandem_agent.tiers.targets import reachable_targets
    from tandem_agent.tiers.writing import Revision

    async with open_agent(old.config, lambda: old.passphrase) as agent:
        targets = await reachable_targets(agent.tiers, 0.0)
        write = await Revision.begin(agent.tiers, targets, Progress())
        found = [decode_segment(agent.ring, path.read_bytes()) for path in old.objects("vault", "index")]
        entries = [entry for segment in found for entry in segment]
        stranger = dataclasses.replace(entries[0], name=bytes(32))
        larger = dataclasses.replace(entries[1], size=entries[1].size + 1)
        for group in ([*entries, stranger], [larger, *entries[:4]]):
            await write.add(ObjectType.INDEX, encode_segment(agent.ring, group, 1))
        await write.commit(Kind.CHECKPOINT, {})
    done = await old.backup()
    assert done.index_upgrade is not None and done.warnings == []
    assert (done.index_upgrade.segments_before, done.index_upgrade.packs) == (SEGMENTS + 2, 11)
    assert (done.index_upgrade.segments_after, done.index_upgrade.entries) == (1, 130)
    await is_converted(old)


async def test_a_check_that_was_cut_off_is_made_by_the_next_backup(
    old: Format1, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tandem_agent import backup as use_case

    async def cut_off(*_arguments: object) -> list[str]:
        raise Refused("cut off", "")

    monkeypatch.setattr(use_case, "check_index", cut_off)
    with pytest.raises(Refused):
        await old.backup()
    monkeypatch.undo()
    with open_state(old.config) as state:
        assert state.check_due()
    old.objects("remote", "packs")[0].unlink()
    done = await old.backup()
    assert done.index_upgrade is None
    assert "tier remote: 1 segments or packs are damaged" in done.warnings[0]


# Other installations, and other programs


async def take(old: Format1) -> None:
    await take_over(old.config, lambda: old.passphrase, lambda *_: True, lambda _: True, Progress())


async def test_a_takeover_of_a_repository_of_form_1(old: Format1) -> None:
    """The new installation converts it at its first backup; until then anyone may read it."""
    shutil.rmtree(old.folder / "state")
    await take(old)
    with open_state(old.config) as state:
        assert state.requires() == revision.NO_FEATURES
    assert (await old.backup()).index_upgrade is not None
    await is_converted(old)


async def test_a_takeover_of_a_converted_one(old: Format1) -> None:
    await old.backup()
    shutil.rmtree(old.folder / "state")
    await take(old)
    await is_converted(old)
    assert (await old.backup()).index_upgrade is None
    await is_converted(old)


async def test_a_disk_that_was_not_there_at_the_takeover_is_joined(old: Format1) -> None:
    """It still holds form 1, and has to say so to nobody."""
    old.away("remote")
    shutil.rmtree(old.folder / "state")
    old.write_config("vault")
    await take(old)
    assert (await old.backup()).index_upgrade is not None
    old.back("remote")
    old.write_config()
    await old.same("remote", 5)
    done = await old.backup()
    assert done.status == "complete"
    with open_state(old.config) as state:
        assert INDEX_2 in state.requires().read and state.last_of_kinds([Kind.JOIN])
    async with open_agent(old.config, lambda: old.passphrase) as agent:
        result = await sync(agent, (), False, Progress())
    assert [tier.state for tier in result.tiers] == ["online", "online"]
    for tier in old.tiers:
        for number in (0, 5):
            await old.same(tier, number)


async def test_an_older_program_refuses_it_by_name(old: Format1, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the state of this installation or of another one, or with none."""
    old.copy("before")
    await old.backup()
    monkeypatch.setattr(revision, "KNOWN_FEATURES", frozenset())
    before = files(old)
    with pytest.raises(Unsupported, match="feature index-2 to be read: upgrade tandem"):
        await old.backup()
    with pytest.raises(Unsupported, match="newer program: upgrade tandem"):
        await take(old)
    with pytest.raises(Unsupported, match="feature index-2 to be read"):
        await old.same("vault", 5)
    shutil.rmtree(old.folder / "state")
    shutil.copytree(old.folder / "kept" / "before" / "state", old.folder / "state")
    with pytest.raises(Refused, match="newer program: upgrade tandem"):
        await old.backup()
    assert files(old) == before


async def test_a_feature_that_only_writers_need(old: Format1, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written for anything that would write, neither on a tier that lags nor at a new place."""
    old.away("remote")
    await old.backup()
    old.back("remote")
    before = files(old)
    monkeypatch.setattr(
        revision.Record, "requires", property(lambda _: revision.Requires((INDEX_2,), ("later",)))
    )
    with pytest.raises(Unsupported, match="feature later to be written"):
        await old.backup()
    with pytest.raises(Unsupported, match="feature later to be written"):
        await level(old)
    async with open_agent(old.config, lambda: old.passphrase) as agent:
        added, other = (TierConfig(name, parse_place(old.url("new"), "/")) for name in ("new", "vault"))
        with pytest.raises(Unsupported, match="feature later to be written"):
            await add_tier(agent, added, lambda *_: False, lambda _: True)
        with pytest.raises(Unsupported, match="feature later to be written"):
            await replace_tier(agent, other, lambda *_: False, lambda _: True, force=True, wait_s=0.0)
    with pytest.raises(Unsupported, match="feature later to be written"):
        await take(old)
    assert files(old) == before and not (old.folder / "new").exists()
    await old.same("vault", 5)


async def test_a_new_index_that_is_lost_with_its_only_tier_damages_no_older_backup(old: Format1) -> None:
    """It names every pack there is; the packs themselves are on the other tier (simulation, seed 237)."""
    before = old.folder / "remote before"
    shutil.copytree(old.folder / "remote", before)
    old.away("vault")
    assert (await old.backup()).index_upgrade is not None
    old.back("vault")
    shutil.rmtree(old.folder / "remote")
    before.rename(old.folder / "remote")
    shutil.rmtree(old.folder / "state" / "cache")
    synchronised = run_warm(["sync"], {**old.environment(), "HOME": str(old.folder)}, old.folder)
    assert synchronised.returncode == 6
    assert not [backup["name"] for backup in old.backups if backup["name"] in synchronised.stderr]
    listed = {found["name"]: found for found in tandem(old, "backups", "--json")}
    assert [listed[backup["name"]]["status"] for backup in old.backups] == ["complete"] * len(old.backups)
    assert all(listed[backup["name"]]["tiers"] == old.tiers for backup in old.backups)
    assert (await old.backup()).status == "complete"
    for tier in old.tiers:
        for number in range(len(old.backups)):
            await old.same(tier, number)
