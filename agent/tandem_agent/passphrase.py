"""Where the passphrase comes from. It is handed on and forgotten: never logged, shown or put in a message.

In this order: the file named on the command line, ``TANDEM_PASSPHRASE``, the configuration's
``passphrase_command`` or ``passphrase_file``, the system keyring (service "tandem", account = path of the
configuration file), a prompt on a terminal. A source that is named and fails is an error, not a reason to
ask the next one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from tandem_agent.prompting import interruptible
from tandem_protocol.errors import Refused, Usage

from .config import Config, TierConfig

MAX_BYTES = 64 * 1024
COMMAND_SECONDS = 120
KEYRING_SERVICE = "tandem"
WAYS = (
    "set TANDEM_PASSPHRASE, give --passphrase-file, set passphrase_command in the configuration, "
    "or run on a terminal"
)


def passphrase_source(
    config: Config | None, file: str | None = None, *, new: bool = False, account: str = ""
) -> Callable[[], str]:
    """A function that gets the passphrase when it is needed, once, and gives the same one from then on.

    ``new``: it is being chosen (init), so a prompt asks twice. ``account``: the name in the system keyring
    when there is no configuration file (a URL). The function raises `Usage` if there is none.
    """
    known: list[str] = []

    def get() -> str:
        if not known:
            known.append(_find(config, file, new=new, account=account))
        return known[0]

    return get


def new_passphrase(file: str | None) -> str:
    """Another passphrase to add: from ``file``, ``TANDEM_NEW_PASSPHRASE`` or a prompt, asked twice."""
    if file:
        return from_file(file)
    if "TANDEM_NEW_PASSPHRASE" in os.environ:
        return _checked(os.environ["TANDEM_NEW_PASSPHRASE"], "TANDEM_NEW_PASSPHRASE")
    if _terminal():
        return _prompt("New passphrase: ", twice=True)
    raise Usage("no new passphrase", "give --new-passphrase-file, or run on a terminal")


def tier_password(tier: TierConfig) -> str | None:
    """The login password of ``tier`` from where its configuration says, or None if it says nowhere."""
    if tier.password_command:
        return from_command(tier.password_command, f"password_command of tier {tier.name}")
    if tier.password_file:
        return from_file(tier.password_file, f"password file of tier {tier.name}")
    return None


def from_file(path: str, what: str = "passphrase file") -> str:
    """The text in ``path``, without the end of its last line. ``-`` is standard input. ``what`` it is."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(os.path.expanduser(path), "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Usage(f"cannot read the {what} {path}: {error.strerror}", "check its name and mode") from None
    return _decoded(data, f"the {what} {path}")


def from_command(command: Sequence[str], what: str) -> str:
    """What ``command`` prints, without the end of its last line. ``what`` names its key in messages."""
    try:
        done = subprocess.run(  # noqa: S603 (an argument list from the user's own configuration)
            list(command), stdout=subprocess.PIPE, timeout=COMMAND_SECONDS, check=False
        )
    except OSError as error:
        raise Usage(f"{what} {command[0]} cannot be run: {error.strerror}", "correct that command") from None
    except subprocess.TimeoutExpired:
        raise Refused(
            f"{what} {command[0]} did not end in {COMMAND_SECONDS} seconds", "run it by hand to see why"
        ) from None
    if done.returncode != 0:
        raise Refused(
            f"{what} {command[0]} failed with exit code {done.returncode}", "run it by hand to see why"
        )
    return _decoded(done.stdout, what)


def _find(config: Config | None, file: str | None, *, new: bool, account: str) -> str:
    if file:
        return from_file(file)
    if "TANDEM_PASSPHRASE" in os.environ:
        return _checked(os.environ["TANDEM_PASSPHRASE"], "TANDEM_PASSPHRASE")
    if config and config.passphrase_command:
        return from_command(config.passphrase_command, "passphrase_command")
    if config and config.passphrase_file:
        return from_file(config.passphrase_file)
    account = account or (config.path if config else "")
    if not new and account and (found := _from_keyring(account)):
        return found
    if _terminal():
        return _prompt("New passphrase: " if new else "Passphrase: ", twice=new)
    raise Usage("no passphrase", WAYS)


def _from_keyring(account: str) -> str | None:
    """The system keyring's answer; None where there is no keyring, it is locked, or it does not know."""
    import keyring
    import keyring.errors

    try:
        return keyring.get_password(KEYRING_SERVICE, account) or None
    except (keyring.errors.KeyringError, RuntimeError, OSError):
        return None


def _terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()


def _prompt(question: str, *, twice: bool) -> str:
    from getpass import getpass

    try:
        if twice:
            print("Whoever has lost it cannot read the backups. Keep a copy elsewhere.", file=sys.stderr)
        with interruptible():
            first = getpass(question, stream=sys.stderr)
            if not first:
                raise Usage("no passphrase", "type one")
            if twice and getpass("Once more: ", stream=sys.stderr) != first:
                raise Usage("the two passphrases differ", "try again")
    except EOFError:
        raise Usage("no passphrase", WAYS) from None
    return _checked(first, "the passphrase")


def _decoded(data: bytes, source: str) -> str:
    if len(data) > MAX_BYTES:
        raise Usage(f"{source} gives more than {MAX_BYTES} bytes", "name another")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Usage(f"{source} is not UTF-8 text", "save it as UTF-8") from None
    return _checked(text.removesuffix("\n").removesuffix("\r"), source)


def _checked(text: str, source: str) -> str:
    if not text:
        raise Usage(f"{source} is empty", "put the text there")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Usage(f"{source} is not UTF-8 text", "use UTF-8") from None
    return text
