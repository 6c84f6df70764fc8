"""SIGKILLs under backup, init and sync, with a vault folder and OpenSSH's real sshd on loopback as tiers.

Only the process itself is killed; its `ssh` child finds out by itself, as in life, and may still be there
when the next command starts. During a struck synchronisation's backup the server is stopped, as when the
WAN is down.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from subprocess import Popen

from tests.support.campaign import Campaign, Hands, Tally, seeds
from tests.support.lab import Lab, Place
from tests.support.sshd import Sshd, running_sshd

KILLS_PER_EPISODE = 25
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian keeps sshd, not on everybody's path


def why_not() -> str | None:
    """What is missing here for this campaign, or None."""
    for program in ("sshd", "ssh", "ssh-keygen"):
        if shutil.which(program, path=PATH) is None:
            return f"kills need OpenSSH's {program}"
    return None


def kill(process: Popen[str]) -> None:
    """SIGKILL, and the end of it."""
    process.kill()
    process.wait()


def _start(server: Sshd) -> None:
    server.start()


def _fingerprint(known_hosts_line: str) -> str:
    """The SHA256:… form of a host key, as `ssh-keygen -l` shows it."""
    digest = hashlib.sha256(base64.b64decode(known_hosts_line.split()[2])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


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
        with running_sshd(os.path.join(folder, f"sshd-{number}")) as server:
            key = os.fspath(server.client_key)
            settings = {"identity_file": key, "host_keys": [server.known_hosts_line]}
            login = ("--identity-file", key, "--accept-host-key", _fingerprint(server.known_hosts_line))
            places = [
                Place("vault", f"file://{vault}", vault),
                Place(
                    "remote",
                    f"sftp://{server.user}@{server.host}:{server.port}/{remote}",
                    remote,
                    settings,
                    login,
                ),
            ]
            lab = Lab(lab_folder, places, home)
            hands = Hands("remote", strike=kill, unplug=server.stop, plug=lambda: _start(server))
            one = Campaign(lab, hands, each, quick)
            one.episode(min(left, KILLS_PER_EPISODE))
            tallies.append(one.tally)
        left -= KILLS_PER_EPISODE
    return tallies
