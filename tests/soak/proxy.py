"""Backups and synchronisations through a link that fails in every way that a seed thinks of, to real servers.

Each run is one real command under one kind of fault; then the link is good again. What was acknowledged has to
restore from each tier that was said to have it as it stands, before anything mends it; a fault of the link is
never taken for a permanent one nor for a second installation; and after one `tandem sync` the tiers are level.
In some labs the servers are all there is, so that a backup may find no tier at all; else a vault is there.
"""

from __future__ import annotations

import glob
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.support import manifest, treegen
from tests.support.campaign import seeds
from tests.support.faultplans import KINDS, Volume, Weather, draw
from tests.support.ftpservers import find_missing
from tests.support.lab import PASSPHRASE, Acknowledged, Lab, LabFailure, Outcome, Place
from tests.support.levelcheck import unlike
from tests.support.proxied import FAST, Proxied, proxied

RUNS_PER_EPISODE = 20
LABS: tuple[tuple[bool, tuple[str, ...]], ...] = (
    (True, ("openssh",)),
    (True, ("vsftpd",)),
    (False, ("openssh", "vsftpd-tls")),
    (True, ("vsftpd-tls",)),
    (True, ("embedded",)),
    (False, ("vsftpd", "openssh")),
)
"""(with a vault, the servers behind proxies), in turn, beginning with the one that the seed says."""

SOURCE = treegen.TreeSpec(100, pool_bytes=2 * treegen.MIB, largest=treegen.MIB)
BIG_BYTES = 3 * treegen.MIB
WAIT_SECONDS = "20"


@dataclass
class ProxyTally:
    """What a campaign has done so far, in numbers."""

    runs: int = 0
    acknowledged: int = 0
    without_tier: int = 0
    left_behind: int = 0
    restores: int = 0
    drawn: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {self.struck[kind]}/{self.drawn[kind]}" for kind in KINDS)
        return (
            f"{self.runs} runs, a fault struck in {self.struck.total()} ({kinds}); "
            f"{self.acknowledged} backups acknowledged, {self.without_tier} times no tier in time, "
            f"{self.left_behind} times a tier was left behind; {self.restores} restores from one tier alone, all equal"
        )

    def __iadd__(self, other: ProxyTally) -> ProxyTally:
        for name in ("runs", "acknowledged", "without_tier", "left_behind", "restores"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.drawn += other.drawn
        self.struck += other.struck
        return self


class ProxyCampaign:
    """The runs of one lab. ``words``: the kind of fault of each run, in order. ``quick``: no long silences, and
    one restore a run."""

    def __init__(
        self,
        lab: Lab,
        servers: Sequence[Proxied],
        seed: int,
        quick: bool = False,
        report: Callable[[str], None] = print,
    ) -> None:
        self._lab, self._servers, self._seed = lab, servers, seed
        self._quick, self._report = quick, report
        self._rng = random.Random(seed)
        self._has_vault = len(lab.places) > len(servers)
        self._volumes: dict[str, Volume] = {}
        self.tally = ProxyTally()

    def episode(self, words: Sequence[str]) -> None:
        """A repository's life: init, a good backup, one run for each of ``words``. Raises LabFailure, which names
        seed and run."""
        story = "init"
        try:
            self._begin()
            for word in words:
                story = self._run(word)
            self._end()
        except LabFailure as error:
            raise LabFailure(
                f"lab seed {self._seed}, run {self.tally.runs}: {story}: {error}\nso far: {self.tally}"
            ) from error

    def _begin(self) -> None:
        treegen.make_tree(
            self._lab.source, treegen.TreeSpec(**{**vars(SOURCE), "seed": self._rng.randrange(1 << 30)})
        )
        self._lab.write_config(patience=10.0)
        self._lab.must("init")
        before = {server.place.name: Volume.of(server.proxy) for server in self._servers}
        self._lab.backup()
        for server in self._servers:
            self._volumes[server.place.name] = Volume.of(server.proxy).since(before[server.place.name])

    def _run(self, word: str) -> str:
        """One command under one kind of fault, and all that has to hold then."""
        lab = self._lab
        command = ["backup", "--wait", WAIT_SECONDS]
        self._change()
        if self._has_vault and self._rng.random() < 0.3:
            command = ["sync"]
            self._miss_a_backup()
        weathers = self._weathers(word)
        story = f"{command[0]}, " + "; ".join(f"{name}: {w.story}" for name, w in weathers.items())
        before = manifest.take(lab.source)
        struck = self._strikes()
        for server in self._servers:
            if server.place.name in weathers:
                weathers[server.place.name].begin(server.proxy)
        try:
            outcome = lab.run(*command)
        except LabFailure as error:
            raise LabFailure(f"{story}: {error}") from error
        for server in self._servers:
            server.proxy.heal()
        self.tally.runs += 1
        self.tally.drawn[word] += 1
        self.tally.struck[word] += word == "closed" or self._strikes() > struck
        self._report(f"{self.tally.runs}: {story}: exit {outcome.code}")
        try:
            self._judge(outcome)
            noted = lab.note(outcome, before) if command[0] == "backup" else None
            self._count(outcome, noted)
            if noted is not None:
                self._restore(noted)
            self._level()
        except LabFailure as error:
            raise LabFailure(f"{story}\n{outcome}\n{error}") from error
        return story

    def _weathers(self, word: str) -> dict[str, Weather]:
        """The weather of each server that has any: of two, mostly one alone."""
        struck = list(self._servers)
        if len(struck) > 1 and self._rng.random() < 0.6:
            struck = [self._rng.choice(struck)]
        return {
            server.place.name: draw(self._rng, word, self._volumes[server.place.name], self._quick)
            for server in struck
        }

    def _miss_a_backup(self) -> None:
        for server in self._servers:
            server.proxy.go_down()
        self._lab.backup()
        for server in self._servers:
            server.proxy.heal()

    def _judge(self, outcome: Outcome) -> None:
        """Exit code and lines by the contract; no fault of a link is a permanent one."""
        allowed = (0,) if self._has_vault and outcome.command[0] == "backup" else (0, 5)
        if outcome.code not in allowed or outcome.document is None:
            raise LabFailure("this exit code, or no document, is not in the contract")
        lines = [line for line in outcome.errors.splitlines() if line.startswith("tandem: ")]
        if len(lines) > 1 or ("error" in outcome.document and len(lines) != 1):
            raise LabFailure("not one line of what went wrong")
        for bad in ("Traceback", "unexpected error", PASSPHRASE, "is blocked"):
            if bad in outcome.errors:
                raise LabFailure(f"it says {bad}")
        for tier in outcome.document.get("tiers", ()):
            if tier["state"] == "blocked":
                raise LabFailure(f"a fault of the link has blocked tier {tier['name']}")
        if logs := glob.glob(os.path.join(self._lab.home, "state", "error-*.log")):
            with open(logs[0], encoding="utf-8") as file:
                raise LabFailure(f"a fault of Tandem:\n{file.read()[-3000:]}")

    def _count(self, outcome: Outcome, noted: Acknowledged | None) -> None:
        self.tally.acknowledged += noted is not None
        self.tally.without_tier += outcome.command[0] == "backup" and noted is None
        states = [tier["state"] for tier in outcome.document.get("tiers", ())]
        self.tally.left_behind += any(state != "online" for state in states)

    def _restore(self, noted: Acknowledged) -> None:
        """From each tier that was said to have it, as it stands; in the quick form from the last one."""
        for tier in noted.tiers[-1:] if self._quick else noted.tiers:
            self._lab.check(noted, tier)
            self.tally.restores += 1

    def _level(self) -> None:
        lab = self._lab
        lab.must("sync")
        if wrong := unlike(
            {name: place.folder for name, place in lab.places.items()}, os.path.join(lab.home, "state")
        ):
            raise LabFailure("not level after `tandem sync`:\n  " + "\n  ".join(wrong))

    def _end(self) -> None:
        last = self._lab.backup()
        if set(last.tiers) != set(self._lab.places):
            raise LabFailure(f"on a good link the last backup is on {last.tiers} only")
        kept = [*self._lab.ledger[:2], *self._lab.ledger[-2:]] if self._quick else self._lab.ledger
        tiers = sorted(self._lab.places)
        for at, backup in enumerate(kept):
            self._lab.check(backup, tiers[at % len(tiers)])  # level: each tier has them all
            self.tally.restores += 1
        self.tally.restores += self._lab.check_all([last])

    def _strikes(self) -> int:
        return sum(server.proxy.struck.total() for server in self._servers)

    def _change(self) -> None:
        treegen.change_some(self._lab.source, 0.05, self._rng.randrange(1 << 30))
        if self._rng.random() < 0.5:
            seed = self._rng.randrange(1 << 30)
            treegen.write_random(os.path.join(self._lab.source, "big.bin"), BIG_BYTES, seed)


def why_not() -> str | None:
    """What is missing here for this campaign, or None."""
    return find_missing("vsftpd")


@contextmanager
def proxied_lab(folder: str, has_vault: bool, kinds: Sequence[str]) -> Iterator[tuple[Lab, list[Proxied]]]:
    """A lab in ``folder`` with a tier behind a proxy on a server of each of ``kinds``, and a vault or not."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(proxied(kind, f"remote{at}", os.path.join(folder, f"server-{at}"), FAST))
            for at, kind in enumerate(kinds)
        ]
        vault, home = os.path.join(folder, "vault"), os.path.join(folder, "home")
        for path in (vault, home):
            os.makedirs(path)
        places = [Place("vault", f"file://{vault}", vault)] if has_vault else []
        yield Lab(folder, [*places, *(server.place for server in servers)], home), servers


def campaign(folder: str, runs: int, seed: int, quick: bool = False) -> list[ProxyTally]:
    """Runs ``runs`` commands below ``folder`` (absolute, must be there), in labs of `RUNS_PER_EPISODE`, each kind of
    fault as often as the others. Raises LabFailure."""
    total = ProxyTally()
    words = _words(runs, seed)
    for number, each in enumerate(seeds(seed, -(-runs // RUNS_PER_EPISODE))):
        has_vault, kinds = LABS[(seed + number) % len(LABS)]
        mine = words[number * RUNS_PER_EPISODE : (number + 1) * RUNS_PER_EPISODE]
        with proxied_lab(os.path.join(folder, f"lab-{number}"), has_vault, kinds) as (lab, servers):
            one = ProxyCampaign(lab, servers, each, quick)
            one.episode(mine)
            total += one.tally
    return [total]


def _words(runs: int, seed: int) -> list[str]:
    """The kind of each run: all of them before one comes again, in an order of the seed's."""
    rng = random.Random(f"kinds {seed}")
    words: list[str] = []
    while len(words) < runs:
        words += rng.sample(KINDS, len(KINDS))
    return words[:runs]
