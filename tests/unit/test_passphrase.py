"""Where the passphrase comes from (cli.md), in which order, and that it reaches no message.

Issue 3, "Bad input": no passphrase.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import keyring
import keyring.errors
import pytest

from tandem_agent import passphrase
from tandem_agent.config import Config, TierConfig
from tandem_agent.passphrase import new_passphrase, passphrase_source, tier_password
from tandem_agent.places import Place
from tandem_protocol.errors import Refused, Usage


class Ring:
    """A keyring in memory; ``locked`` makes every question fail."""

    def __init__(self, locked: bool = False) -> None:
        self.known: dict[tuple[str, str], str] = {}
        self.locked = locked
        self.asked: list[tuple[str, str]] = []

    def get_password(self, service: str, username: str) -> str | None:
        self.asked.append((service, username))
        if self.locked:
            raise keyring.errors.KeyringLocked("locked")
        return self.known.get((service, username))


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> Ring:
    """No environment, no terminal, an empty keyring."""
    monkeypatch.delenv("TANDEM_PASSPHRASE", raising=False)
    monkeypatch.delenv("TANDEM_NEW_PASSPHRASE", raising=False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    ring = Ring()
    monkeypatch.setattr(keyring, "get_password", ring.get_password)
    return ring


def config(**fields: Any) -> Config:
    return Config(tiers=(), state_dir="/nowhere", path="/etc/agent.toml", **fields)


def test_none_at_all_names_the_ways() -> None:
    with pytest.raises(Usage) as error:
        passphrase_source(config())()
    assert error.value.exit_code == 2
    for way in ("TANDEM_PASSPHRASE", "--passphrase-file", "passphrase_command", "terminal"):
        assert way in error.value.remedy


def test_the_order(monkeypatch: pytest.MonkeyPatch, nothing_set: Ring, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the file\n")
    nothing_set.known["tandem", "/etc/agent.toml"] = "of the keyring"
    everything = config(passphrase_command=("printf", "of the command"))
    monkeypatch.setenv("TANDEM_PASSPHRASE", "of the environment")
    assert passphrase_source(everything, str(tmp_path / "file"))() == "of the file"
    assert passphrase_source(everything)() == "of the environment"
    monkeypatch.delenv("TANDEM_PASSPHRASE")
    assert passphrase_source(everything)() == "of the command"
    assert passphrase_source(config(passphrase_file=str(tmp_path / "file")))() == "of the file"
    assert nothing_set.asked == []
    assert passphrase_source(config())() == "of the keyring"
    assert nothing_set.asked == [("tandem", "/etc/agent.toml")]


def test_a_url_has_a_keyring_account_of_its_own(nothing_set: Ring) -> None:
    nothing_set.known["tandem", "sftp://b@h/t"] = "of the url"
    assert passphrase_source(None, account="sftp://b@h/t")() == "of the url"


def test_a_locked_keyring_is_no_answer(nothing_set: Ring) -> None:
    nothing_set.locked = True
    with pytest.raises(Usage, match="no passphrase"):
        passphrase_source(config())()


def test_it_is_asked_for_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("first")
    get = passphrase_source(config(), str(file))
    assert get() == "first"
    file.write_text("second")
    assert get() == "first"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"word\n", "word"),
        (b"word\r\n", "word"),
        (b" two words \n", " two words "),
        (b"a\n\n", "a\n"),
        (b"word", "word"),
    ],
)
def test_only_the_end_of_the_last_line_is_taken_off(content: bytes, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert passphrase_source(None, str(tmp_path / "file"))() == wanted


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "not UTF-8"), (b"x" * 70_000, "more than")],
)
def test_files_that_hold_no_passphrase(content: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Usage, match=word):
        passphrase_source(None, str(tmp_path / "file"))()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="none: No such file"):
        passphrase_source(None, str(tmp_path / "none"))()


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe\n")))
    assert passphrase_source(None, "-")() == "from a pipe"


def test_a_command_that_fails_is_an_error_and_says_nothing_it_printed() -> None:
    with pytest.raises(Refused, match="sh failed with exit code 3") as error:
        passphrase_source(config(passphrase_command=("sh", "-c", "echo hunter2; exit 3")))()
    assert "hunter2" not in str(error.value)
    with pytest.raises(Usage, match="cannot be run"):
        passphrase_source(config(passphrase_command=("/none/at/all",)))()


def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "COMMAND_SECONDS", 0.05)
    with pytest.raises(Refused, match="did not end"):
        passphrase_source(config(passphrase_command=("sleep", "60")))()


def test_an_empty_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_PASSPHRASE", "")
    with pytest.raises(Usage, match="TANDEM_PASSPHRASE is empty"):
        passphrase_source(config())()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A terminal on which the listed words are typed; the fixture is the list."""
    typed: list[str] = []
    monkeypatch.setattr(passphrase, "_terminal", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _question, stream: typed.pop(0))
    return typed


def test_a_prompt_asks_once_to_open_and_twice_to_choose(terminal: list[str]) -> None:
    terminal.extend(["word"])
    assert passphrase_source(config())() == "word"
    terminal.extend(["word", "word"])
    assert passphrase_source(config(), new=True)() == "word"
    terminal.extend(["word", "wrod"])
    with pytest.raises(Usage, match="differ"):
        passphrase_source(config(), new=True)()
    terminal.extend([""])
    with pytest.raises(Usage, match="no passphrase"):
        passphrase_source(config(), new=True)()


def test_a_new_one_is_not_looked_up_in_the_keyring(nothing_set: Ring) -> None:
    nothing_set.known["tandem", "/etc/agent.toml"] = "of an older repository"
    with pytest.raises(Usage, match="no passphrase"):
        passphrase_source(config(), new=True)()


def test_another_passphrase_to_add(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, terminal: list[str]
) -> None:
    (tmp_path / "file").write_text("of the file\n")
    monkeypatch.setenv("TANDEM_NEW_PASSPHRASE", "of the environment")
    assert new_passphrase(str(tmp_path / "file")) == "of the file"
    assert new_passphrase(None) == "of the environment"
    monkeypatch.delenv("TANDEM_NEW_PASSPHRASE")
    terminal.extend(["typed", "typed"])
    assert new_passphrase(None) == "typed"
    monkeypatch.setattr(passphrase, "_terminal", lambda: False)
    with pytest.raises(Usage, match="--new-passphrase-file"):
        new_passphrase(None)


def test_the_login_password_of_a_tier(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("from a file\n")
    place = Place("sftp", "t", "h", 22, "b")
    assert tier_password(TierConfig("r", place)) is None
    assert tier_password(TierConfig("r", place, password_file=str(tmp_path / "pw"))) == "from a file"
    assert (
        tier_password(TierConfig("r", place, password_command=("printf", "from a command")))
        == "from a command"
    )
    with pytest.raises(Refused, match="password_command of tier r false failed"):
        tier_password(TierConfig("r", place, password_command=("false",)))
