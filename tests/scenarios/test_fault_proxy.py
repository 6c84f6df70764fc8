"""Links that fail, between real commands and real servers (issue 4, Must show 4; requirements A2, A4, A6): attempts
counted exactly, links that break again and again, a tier that comes back, faults that no retry can mend; and the
quick form of the campaign (`make soak` runs the long one).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.soak import proxy as soak
from tests.support import manifest, treegen
from tests.support.faultproxy import Direction, Fault, Kind, Plan, always
from tests.support.lab import Lab, Outcome
from tests.support.levelcheck import unlike
from tests.support.proxied import Proxied, proxied
from tests.support.requirements import need

MIB = treegen.MIB
SERVERS = ("openssh", "vsftpd")
REFUSED = Fault(Kind.REFUSE)


def refused(first: int) -> Plan:
    """The first connections are refused (of FTP the logins; a data connection is never made without one)."""
    return lambda number, is_data: REFUSED if number < first and not is_data else None


@contextmanager
def lab(folder: Path, kind: str, vault: bool = True) -> Iterator[tuple[Lab, Proxied]]:
    """A lab with a repository on one server behind a proxy, and in a vault."""
    need(soak.why_not())
    with soak.proxied_lab(str(folder), vault, [kind]) as (made, (server,)):
        treegen.make_tree(made.source, treegen.TreeSpec(20, pool_bytes=MIB, largest=MIB))
        made.write_config(patience=60.0)
        made.must("init")
        yield made, server


def tier(outcome: Outcome, name: str) -> dict[str, object]:
    return next(row for row in outcome.document["tiers"] if row["name"] == name)


@pytest.mark.parametrize("kind", SERVERS)
def test_nine_failures_then_success_lose_nothing(tmp_path: Path, kind: str) -> None:
    with lab(tmp_path, kind, vault=False) as (made, server):
        before = server.proxy.connections
        server.proxy.follow(refused(first=9))
        backup = made.backup()
        assert server.proxy.connections - before == 10
        made.check(backup, server.place.name)


@pytest.mark.parametrize("kind", SERVERS)
def test_nine_failures_in_the_middle_of_an_upload_too(tmp_path: Path, kind: str) -> None:
    """The first attempt is cut while it sends, eight more are refused, the tenth goes on."""
    with lab(tmp_path, kind, vault=False) as (made, server):
        treegen.write_random(f"{made.source}/big", 4 * MIB, 1)
        cut = Fault(Kind.CUT, "up", 300_000)

        def plan(number: int, is_data: bool) -> Fault | None:
            if is_data == (kind == "vsftpd") and not server.proxy.struck[Kind.CUT]:
                return cut
            return REFUSED if 0 < number < 9 and not is_data else None

        before = server.proxy.connections
        server.proxy.follow(plan)
        backup = made.backup()
        assert server.proxy.struck[Kind.CUT] == 1
        assert server.proxy.connections - before == 10
        made.check(backup, server.place.name)


@pytest.mark.parametrize("kind", SERVERS)
def test_the_tenth_failure_marks_the_tier_and_the_other_has_the_backup(tmp_path: Path, kind: str) -> None:
    with lab(tmp_path, kind) as (made, server):
        before = server.proxy.connections
        server.proxy.follow(always(REFUSED))
        source = manifest.take(made.source)
        outcome = made.must("backup")
        assert server.proxy.connections - before == 10
        remote = tier(outcome, server.place.name)
        assert (remote["state"], remote["has_it"]) == ("offline", False)
        assert server.place.url.split("@")[1].split("/")[0] in str(remote["reason"]), remote
        backup = made.note(outcome, source)
        assert backup is not None and backup.tiers == ("vault",)
        made.check(backup, "vault")
        told = tier(made.must("tiers"), server.place.name)
        assert (told["state"], told["missing_revisions"]) == ("offline", 1)
        server.proxy.heal()
        made.must("sync")
        assert not unlike({n: p.folder for n, p in made.places.items()}, f"{made.home}/state")


@pytest.mark.parametrize("counted", ["up", "both"])
@pytest.mark.parametrize("kind", SERVERS)
def test_a_link_that_breaks_every_20_mb_still_delivers(tmp_path: Path, kind: str, counted: Direction) -> None:
    """``both``: what is read back of a part, before it is gone on from, wears the link out as well."""
    with lab(tmp_path, kind, vault=False) as (made, server):
        treegen.write_random(f"{made.source}/big", 64 * MIB, 2)
        before = server.proxy.bytes_up
        server.proxy.follow(always(Fault(Kind.RESET, counted, 20_000_000)))
        backup = made.backup()
        assert server.proxy.struck[Kind.RESET] >= (3 if kind == "openssh" else 2)
        assert server.proxy.bytes_up - before < 1.5 * 64 * MIB
        server.proxy.heal()
        made.check(backup, server.place.name)


def test_a_tier_that_recovers_is_noticed_without_a_restart(tmp_path: Path) -> None:
    with lab(tmp_path, "openssh", vault=False) as (made, server):
        server.proxy.follow(always(REFUSED))
        seen = server.proxy.connections
        source = manifest.take(made.source)
        process = made.start("backup", "--wait", "240")
        # More than one round of ten attempts: the tier was given up and is asked again.
        server.proxy.wait_for(lambda: server.proxy.connections >= seen + 15)
        assert process.poll() is None
        server.proxy.heal()
        outcome = made.finish(process, ["backup"])
        assert outcome.code == 0, outcome
        backup = made.note(outcome, source)
        assert backup is not None
        made.check(backup, server.place.name)


def test_a_wrong_password_is_tried_once_and_named(tmp_path: Path) -> None:
    with lab(tmp_path, "vsftpd") as (made, server):
        Path(str(server.place.settings["password_file"])).write_text("not-this\n")
        before = server.proxy.connections
        outcome = made.must("backup")
        assert server.proxy.connections - before == 1
        remote = tier(outcome, server.place.name)
        assert remote["state"] == "blocked"
        assert "refuses the login" in str(remote["reason"]) and "password_file" in str(remote["reason"])
        assert "not-this" not in str(outcome.document) + outcome.errors


def test_another_host_key_is_seen_once_and_named(tmp_path: Path) -> None:
    with lab(tmp_path, "openssh") as (made, server):
        with proxied("openssh", "other", str(tmp_path / "other")) as other:
            server.proxy.point_at(other.server.host, other.server.port)
            before = server.proxy.connections
            outcome = made.must("backup")
        remote = tier(outcome, server.place.name)
        assert remote["state"] == "blocked"
        assert "host key" in str(remote["reason"]), remote
        assert server.proxy.connections - before <= 2  # the second asks what is offered, for the message


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [42, 31])
def test_runs_through_links_that_fail(tmp_path: Path, seed: int) -> None:
    """The quick form: labs with OpenSSH (42) and vsftpd (31)
    beside a vault, eight kinds of fault."""
    need(soak.why_not())
    (tally,) = soak.campaign(str(tmp_path), 4, seed, quick=True)
    assert tally.runs == 4
    assert tally.struck.total() >= 3, str(tally)
    assert tally.restores >= tally.acknowledged > 0
