"""SIGKILLs under backup, init, sync, tier add and takeover, with a vault folder, OpenSSH's real sshd and a real
vsftpd on loopback as tiers.

Only the process itself is killed; its `ssh` child and the servers' sessions find out by themselves, as in life,
and may still be there when the next command starts. During a struck synchronisation's backup one of the servers
is stopped, as when the WAN is down.
"""

from __future__ import annotations

import os
import shutil
from subprocess import Popen
from typing import Protocol

from tests.support.campaign import Campaign, Hands, Plug, Tally, seeds
from tests.support.ftpservers import find_missing, running_ftp
from tests.support.lab import Lab, Place
from tests.support.proxied import FAST, ftp_place, ssh_place
from tests.support.sshd import running_sshd

KILLS_PER_EPISODE = 25
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian keeps sshd, not on everybody's path


class Server(Protocol):
    """What can be stopped, as by a crash, and started again on its port."""

    def start(self) -> object: ...

    def stop(self) -> None: ...


def why_not() -> str | None:
    """What is missing here for this campaign, or None."""
    for program in ("sshd", "ssh", "ssh-keygen"):
        if shutil.which(program, path=PATH) is None:
            return f"kills need OpenSSH's {program}"
    return find_missing("vsftpd")


def kill(process: Popen[str]) -> None:
    """SIGKILL, and the end of it."""
    process.kill()
    process.wait()


def _plug(server: Server) -> Plug:
    def back() -> None:
        server.start()

    return Plug(server.stop, back)


def campaign(folder: str, kills: int, seed: int, quick: bool = False) -> list[Tally]:
    """Runs `kills` kills below `folder` (absolute, must be there); one tally for each repository used.
    `quick` restores only at the end of each.

    Errors: LabFailure.
    """
    tallies = []
    left = kills
    for number, each in enumerate(seeds(seed, -(-kills // KILLS_PER_EPISODE))):
        lab_folder = os.path.join(folder, f"episode-{number}")
        vault, remote, home = (os.path.join(lab_folder, name) for name in ("vault", "remote", "home"))
        for path in (vault, remote, home):
            os.makedirs(path)
        with running_sshd(os.path.join(folder, f"sshd-{number}")) as sshd, running_ftp("vsftpd") as vsftpd:
            places = [
                Place("vault", f"file://{vault}", vault),
                ssh_place(sshd, "remote", remote, more={"retries": FAST}),
                ftp_place(vsftpd, "ftp", lab_folder, more={"retries": FAST}),
            ]
            hands = Hands(kill, {"remote": _plug(sshd), "ftp": _plug(vsftpd)})
            one = Campaign(Lab(lab_folder, places, home), hands, each, quick)
            one.episode(min(left, KILLS_PER_EPISODE))
            tallies.append(one.tally)
        left -= KILLS_PER_EPISODE
    return tallies
