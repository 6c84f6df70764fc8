"""Who may log in, and with which key the server proves itself: the two key files.

Neither may lie below the root, where a client could read or change it.
"""

from __future__ import annotations

import os
import tempfile

import asyncssh

from tandem_protocol.errors import Refused, Usage


def open_root(root: str) -> str:
    """The real path of the root folder, or `Usage`."""
    real = os.path.realpath(root)
    if not os.path.isdir(real):
        raise Usage(f"the root {root} is not a folder", "make it, or give another with --root")
    if not os.access(real, os.R_OK | os.W_OK | os.X_OK):
        raise Refused(f"the root {root} cannot be read and written", "run as the user who owns it")
    return real


def check_outside(root: str, path: str, option: str) -> None:
    """`Usage` if ``path`` is below ``root``."""
    if os.path.commonpath([root, os.path.realpath(path)]) == root:
        raise Usage(f"{path} is below the root, where clients could reach it", f"keep {option} elsewhere")


def authorized_keys(path: str) -> asyncssh.SSHAuthorizedKeys:
    """The keys that may log in. `Usage` if the file is missing, malformed or empty."""
    remedy = "--authorized-keys wants lines as in ~/.ssh/authorized_keys"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if not any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
            raise Usage(f"{path} holds no key, so nobody could log in", remedy)
        return asyncssh.import_authorized_keys(text)
    except OSError as error:
        raise Usage(f"cannot read {path}: {error.strerror}", remedy) from None
    except (ValueError, asyncssh.KeyImportError) as error:
        raise Usage(f"{path} is not a file of public keys: {error}", remedy) from None


def host_key(path: str) -> asyncssh.SSHKey:
    """The server's key, made (Ed25519, readable by its owner alone) if the file is not there."""
    try:
        if not os.path.lexists(path):
            _make_host_key(path)
        if os.stat(path).st_mode & 0o077:
            raise Refused(f"others can read the host key {path}", f"chmod 600 {path}")
        return asyncssh.read_private_key(path)
    except OSError as error:
        raise Refused(f"cannot read or make the host key {path}: {error.strerror}") from None
    except (ValueError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        raise Usage(f"{path} is not a private key without a passphrase") from None


def _make_host_key(path: str) -> None:
    """Whole or not at all, and never over another: two first starts agree on one key."""
    folder = os.path.dirname(path) or "."
    data = asyncssh.generate_private_key("ssh-ed25519", comment="tandem-server").export_private_key()
    fd, temporary = tempfile.mkstemp(dir=folder, prefix=".host-key-")  # made with mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        os.unlink(temporary)
