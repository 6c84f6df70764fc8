"""The commands of cli.md at their boundary: options, exit codes, JSON fields, no secret in any output.

The use cases are replaced here by recorders; the scenarios run the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import shlex
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest

from tandem_agent.backups import BackupInfo
from tandem_agent.cli import app
from tandem_agent.cli.backups import find_backup
from tandem_agent.cli.common import Settings
from tandem_agent.config import Config, load_config
from tandem_protocol.errors import Busy, Missing, Usage

AGENT = types.SimpleNamespace(tiers=types.SimpleNamespace(tiers=[]))
PASSPHRASE = "correct horse battery staple"


@dataclass
class Told:
    """One tier of a result."""

    name: str
    state: str
    has_it: bool
    reason: str = ""
    trouble: str = ""


@dataclass
class Result:
    """A backup's result with the fields of cli.md."""

    id: bytes = bytes(16)
    name: str = "26112201"
    revision: int = 5
    files: int = 3
    bytes: int = 9
    bytes_read: int = 4
    bytes_stored: int = 2
    seconds: float = 0.5
    status: str = "complete"
    tiers: list[Told] = field(default_factory=lambda: [Told("vault", "online", True)])
    warnings: list[str] = field(default_factory=list)
    index_upgrade: object = None


class Core:
    """Stands where the use cases are; notes each call and answers with what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answers: dict[str, Any] = {"backup": Result()}
        self.configs: list[Config] = []

    @contextlib.asynccontextmanager
    async def open_agent(self, config: Config, passphrase: Callable[[], str]) -> AsyncIterator[str]:
        assert passphrase() == PASSPHRASE
        self.configs.append(config)
        yield AGENT

    @contextlib.contextmanager
    def open_state(self, config: Config) -> Iterator[str]:
        self.configs.append(config)
        yield "the state"

    def use_case(self, name: str) -> Callable[..., Any]:
        async def run(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            answer = self.answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return run


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Core:
    """The core replaced by a recorder; no terminal; the passphrase in the environment."""
    core = Core()
    fakes = {
        "wiring": {"open_agent": core.open_agent, "open_state": core.open_state},
        "backup": {"backup": core.use_case("backup")},
        "resync": {"sync": core.use_case("sync")},
        "init": {"init_repository": core.use_case("init")},
        "tiers.status": {"tiers_status": core.use_case("tiers"), "remembered_status": None},
        "keyslots": {
            "key_add": core.use_case("key add"),
            "key_remove": core.use_case("key remove"),
            "key_list": lambda _state: core.answers["key list"],
        },
        "backups": {"list_backups": lambda _state: core.answers["backups"]},
    }
    for name, contents in fakes.items():
        module = types.ModuleType(f"tandem_agent.{name}")
        for attribute, value in contents.items():
            setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("TANDEM_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user-state"))
    return core


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with one source and two tiers, where TANDEM_CONFIG says."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "agent.toml"
    path.write_text(
        'sources = ["data"]\nexclude = ["*.tmp"]\nstate_dir = "state"\n'
        '[[tier]]\nname = "vault"\nurl = "vault"\n[[tier]]\nname = "remote"\nurl = "sftp://b@h/t"\n'
    )
    monkeypatch.setenv("TANDEM_CONFIG", str(path))
    return path


def all_commands() -> list[list[str]]:
    """Every command and subcommand, as typed."""
    context = click.Context(app.root)
    found = []
    for name in app.root.list_commands(context):
        command = app.root.get_command(context, name)
        found.append([name])
        if isinstance(command, click.Group):
            found += [[name, sub] for sub in command.list_commands(context)]
    return found


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:\n" in text
    assert f"  tandem {' '.join(command)}" in text.split("Example:\n")[1]
    for option in ("--config FILE", "--json", "--passphrase-file"):
        assert option in text


@pytest.mark.parametrize("command", [[], ["backups"], ["tier"], ["key"]], ids=" ".join)
def test_no_summary_in_a_list_of_commands_is_cut(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert app.run([*command, "--help"]) == 0
    listed = capsys.readouterr().out.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert [line for line in listed if not line.endswith(".")] == []
    assert [line for line in listed if line.endswith("...")] == []


def test_no_example_names_a_mount_point() -> None:
    """docs/rotating-disks.md says why: a folder on the disk is not there while the disk is not."""
    for words in all_commands():
        named = [word for word in (resolved(words)[0].epilog or "").split() if word.startswith("/media/")]
        assert all(word.count("/") > 2 for word in named), named


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that ``words`` begin with, and the rest of them."""
    command: click.Command = app.root
    while isinstance(command, click.Group) and words:
        below = command.get_command(click.Context(command), words[0])
        if below is None:
            break
        command, words = below, words[1:]
    return command, words


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_every_example_is_understood(command: list[str]) -> None:
    """Each line of an example parses: a renamed option cannot stay in the help."""
    found, rest = resolved(command)
    assert rest == [] and found.epilog is not None
    lines = [line.strip() for line in found.epilog.replace("\\\n", " ").splitlines()]
    examples = [shlex.split(line)[1:] for line in lines if line.startswith("tandem ")]
    assert examples
    for example in examples:
        named, arguments = resolved(example)
        named.make_context("example", arguments, obj=Settings())


def test_version_is_quick_and_needs_nothing() -> None:
    code = (
        "import os, sys; sys.argv = ['tandem', '--version']; from tandem_agent.cli import main\n"
        "os._exit = sys.exit\n"
        "try: main()\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'click', 'rich', 'paramiko', 'cryptography', 'asyncio', 'sqlite3'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tandem ")


def test_the_program_ends_though_a_thread_hangs() -> None:
    """As one does that asked a dead share for something."""
    code = (
        "import sys, time; from concurrent.futures import ThreadPoolExecutor; from tandem_agent import cli\n"
        "from tandem_agent.cli import app\n"
        "pool = ThreadPoolExecutor(); pool.submit(time.sleep, 600)\n"
        "app.run = lambda _arguments: print('done', end='') or 3\n"
        "sys.argv = ['tandem', 'backups']; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (3, "done"), done.stderr


@pytest.mark.parametrize("command", ["backup", "ls", "restore", "init"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; from tandem_agent.cli.app import run\nassert run([{command!r}, '--help']) == 0\n"
        "heavy = {'rich', 'paramiko', 'cryptography', 'keyring', 'sqlite3', 'zstandard'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["nope"],
        ["backup", "--nope"],
        ["backup", "--wait", "-1"],
        ["backup", "--require", "0"],
        ["backup", "--require", "3"],
        ["sync", "elsewhere"],
        ["init", "--tier", "vault"],
        ["key", "remove"],
        ["restore", "latest"],
    ],
)
def test_wrong_usage_is_2_and_one_line(
    words: list[str], core: Core, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tandem: ") and err.count("\n") == 1 and "Traceback" not in err
    assert core.calls == []


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_an_empty_argument_is_wrong_usage(
    command: list[str], core: Core, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable of a script that is not set: it means neither the current folder nor none."""
    found, _ = resolved(command)
    texts = [p for p in found.params if isinstance(p.type, click.types.StringParamType) and p.default != ""]
    assert {"config", "passphrase_file"} <= {param.name for param in texts}
    for empty in texts:
        words = [word for p in found.params if isinstance(p, click.Argument) for word in _given(p, empty)]
        words += [] if isinstance(empty, click.Argument) else [empty.opts[0], ""]
        if command == ["restore"] and empty.name != "target":
            words += ["--to", "back"]
        assert app.run([*command, *words]) == 2, words
        out, err = capsys.readouterr()
        assert out == "" and "it is empty" in err and err.count("\n") == 1, (words, err)
    assert core.calls == []


def _given(argument: click.Argument, empty: click.Parameter) -> list[str]:
    if argument is empty:
        return [""]
    return ["x"] if argument.required else []


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) == 2
    assert "backup" in capsys.readouterr().err


def test_common_options_hold_before_and_after_the_command(
    core: Core, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TANDEM_CONFIG")
    for words in (
        ["--config", str(config), "--json", "backup"],
        ["backup", "--config", str(config), "--json"],
        ["--json", "backup", "--config", str(config)],
    ):
        assert app.run(words) == 0
        assert json.loads(capsys.readouterr().out)["name"] == "26112201"
    assert len(core.calls) == 3


def test_backup_json_has_the_fields_of_the_contract(
    core: Core, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["backup", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "id": "00" * 16,
        "name": "26112201",
        "revision": 5,
        "files": 3,
        "bytes": 9,
        "bytes_read": 4,
        "bytes_stored": 2,
        "seconds": 0.5,
        "status": "complete",
        "tiers": [{"name": "vault", "state": "online", "has_it": True, "reason": "", "trouble": ""}],
        "warnings": [],
        "index_upgrade": None,
    }


def test_backup_hands_on_its_arguments(core: Core, config: Path, tmp_path: Path) -> None:
    assert (
        app.run(["backup", "--wait", "1.5", "--require", "1", "--exclude", "*.o", "--one-file-system"]) == 0
    )
    ((_, arguments, named),) = core.calls
    assert arguments == (AGENT, [bytes(tmp_path / "data")])
    assert named["wait_s"] == 1.5
    assert core.configs[0].exclude == ("*.tmp", "*.o")
    assert core.configs[0].one_file_system


def test_one_is_counted_as_one(
    core: Core, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core.answers |= {"backup": Result(files=1), "init": InitResult(bytes(16), [], False)}
    assert app.run(["backup"]) == 0
    assert " complete: 1 file, " in capsys.readouterr().out
    assert app.run(["backup", "--require", "3"]) == 2
    assert "the configuration has 2 tiers, not 3" in capsys.readouterr().err
    for tiers, said in ((["v=a"], "made on 1 tier."), (["v=a", "r=b"], "made on 2 tiers.")):
        words = [word for tier in tiers for word in ("--tier", tier)]
        assert app.run(["init", *words, "--config", str(tmp_path / f"{len(tiers)}.toml")]) == 0
        assert said in capsys.readouterr().out
    lost = types.SimpleNamespace(tiers=[SyncTier("remote", "online")], lost=1, damaged=["26112201"])
    core.answers["sync"] = lost
    assert app.run(["sync"]) == 6
    assert "1 object good on no tier, given up; backups concerned: 26112201" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "words", "code"),
    [
        (Result(), [], 0),
        (Result(status="partial", warnings=["a: permission denied"]), [], 3),
        (Result(status="pending", tiers=[Told("vault", "offline", False, "gone")]), [], 5),
        (Result(tiers=[Told("vault", "online", True), Told("remote", "offline", False)]), [], 0),
        (
            Result(tiers=[Told("vault", "online", True), Told("remote", "offline", False)]),
            ["--require", "1"],
            0,
        ),
        (
            Result(tiers=[Told("vault", "online", True), Told("remote", "offline", False)]),
            ["--require", "all"],
            5,
        ),
        (
            Result(tiers=[Told("vault", "online", True), Told("remote", "online", True)]),
            ["--require", "all"],
            0,
        ),
    ],
)
def test_exit_codes_of_backup(
    result: Result, words: list[str], code: int, core: Core, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core.answers["backup"] = result
    assert app.run(["backup", *words]) == code
    assert app.run(["backup", "--json", *words]) == code
    out = capsys.readouterr().out
    assert result.name in out


def test_a_source_that_cannot_be_is_told_before_anything_is_done(
    core: Core, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("")
    assert app.run(["backup", str(tmp_path / "none")]) == 2
    assert f"source {tmp_path}/none is not there" in capsys.readouterr().err
    assert app.run(["backup", str(tmp_path / "a file")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "data").rmdir()
    assert app.run(["backup"]) == 2
    assert f"source {tmp_path}/data is not there" in capsys.readouterr().err
    assert core.calls == []


def test_one_missing_source_of_two_is_for_the_backup_to_report(
    core: Core, config: Path, tmp_path: Path
) -> None:
    config.write_text(config.read_text().replace('["data"]', '["data", "gone"]'))
    assert app.run(["backup"]) == 0
    assert core.calls[0][1][1] == [bytes(tmp_path / "data"), bytes(tmp_path / "gone")]


def test_a_busy_agent_is_7(core: Core, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    core.answers["backup"] = Busy("another tandem process is at work here", "wait for it")
    assert app.run(["backup", "--json"]) == 7
    assert json.loads(capsys.readouterr().out)["exit_code"] == 7


@dataclass
class SyncTier:
    name: str
    state: str
    revisions: int = 1
    objects: int = 2
    bytes: int = 3
    seconds: float = 0.1
    reason: str = ""


@pytest.mark.parametrize(("state", "code"), [("online", 0), ("lagging", 5), ("offline", 5)])
def test_sync(state: str, code: int, core: Core, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    core.answers["sync"] = types.SimpleNamespace(tiers=[SyncTier("remote", state)], lost=0, damaged=[])
    assert app.run(["sync", "remote", "--full"]) == code
    assert core.calls[0][1][1:3] == (["remote"], True)
    assert "remote" in capsys.readouterr().out


@dataclass
class Status:
    head: int
    tiers: list[Any]


@dataclass
class TierState:
    name: str
    url: str
    state: str
    revision: int
    missing_revisions: int
    missing_objects: int
    missing_bytes: int
    reason: str
    trouble: str
    since: str


def test_tiers_json_has_the_fields_of_the_contract(
    core: Core, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {
        "name": "remote",
        "url": "sftp://b@h/t",
        "state": "lagging",
        "revision": 3,
        "missing_revisions": 2,
        "missing_objects": 7,
        "missing_bytes": 9000,
        "reason": "lacks revisions",
        "trouble": "no space left",
        "since": "2026-11-22T16:00:00Z",
    }
    core.answers["tiers"] = Status(5, [TierState(**fields)])
    assert app.run(["tiers", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"head": 5, "tiers": [fields]}
    assert app.run(["tiers"]) == 0
    out = capsys.readouterr().out
    assert "2 revisions, 7 objects, 9.0 kB" in out
    assert "\nremote: lagging since 2026-11-2" in out
    assert ": lacks revisions; blocked before: no space left\n" in out


def test_tiers_says_what_it_waits_for(
    core: Core, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asyncio.Event()

    async def waits(_agent: object) -> Status:
        async with asyncio.timeout(30):
            await told.wait()
        return Status(5, [])

    monkeypatch.setattr(sys.modules["tandem_agent.tiers.status"], "tiers_status", waits)
    monkeypatch.setattr("tandem_agent.cli.progress.SILENT_SECONDS", 0.001)
    monkeypatch.setattr("tandem_agent.cli.output.notice", lambda text: (print(text), told.set()))
    assert app.run(["tiers"]) == 0
    assert capsys.readouterr().out.startswith("waiting for a tier (")


class TestInit:
    """`tandem init` writes the file 0600, never over another, and may be repeated."""

    @pytest.fixture(autouse=True)
    def made(self, core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        core.answers["init"] = InitResult(bytes(16), [], False)
        monkeypatch.setenv("TANDEM_CONFIG", str(tmp_path / "c" / "agent.toml"))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data").mkdir()

    def words(self, *more: str) -> list[str]:
        return ["init", "data", "--tier", "vault=nas", "--tier", "remote=sftp://b@h:2022/t", *more]

    def test_it_writes_what_it_was_told(self, core: Core, tmp_path: Path) -> None:
        assert app.run(self.words("--exclude", "*.o", "--identity-file", "id")) == 0
        path = tmp_path / "c" / "agent.toml"
        assert path.stat().st_mode & 0o777 == 0o600
        config = load_config(str(path))
        assert config == core.calls[0][1][0]
        assert config.sources == (bytes(tmp_path / "data"),)
        assert [t.url for t in config.tiers] == [f"file://{tmp_path}/nas", "sftp://b@h:2022/t"]
        assert [t.identity_file for t in config.tiers] == [None, f"{tmp_path}/id"]
        assert config.exclude == ("*.o",)
        assert PASSPHRASE not in path.read_text()

    def test_again_with_the_same_arguments(self, core: Core, tmp_path: Path) -> None:
        core.answers["init"] = Busy("stopped half-way")
        assert app.run(self.words()) == 7
        core.answers["init"] = InitResult(bytes(16), [], True)
        assert app.run(self.words()) == 0
        text = (tmp_path / "c" / "agent.toml").read_text()
        assert app.run(self.words()) == 0
        assert app.run(["init"]) == 0
        assert (tmp_path / "c" / "agent.toml").read_text() == text
        configs = [call[1][0] for call in core.calls]
        assert configs == [configs[0]] * 4

    def test_another_configuration_is_not_overwritten(
        self, core: Core, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert app.run(self.words()) == 0
        text = (tmp_path / "c" / "agent.toml").read_text()
        capsys.readouterr()
        assert app.run(["init", "--tier", "vault=other"]) == 2
        assert "is there already with other tiers" in capsys.readouterr().err
        assert (
            app.run(["init", str(tmp_path), "--tier", "vault=nas", "--tier", "remote=sftp://b@h:2022/t"]) == 2
        )
        assert "is there already with other sources" in capsys.readouterr().err
        assert (tmp_path / "c" / "agent.toml").read_text() == text
        assert len(core.calls) == 1

    def test_two_repositories_have_two_state_folders(self, core: Core, tmp_path: Path) -> None:
        assert app.run(self.words("--config", "a.toml")) == 0
        assert app.run(self.words("--config", "b.toml")) == 0
        assert app.run(self.words("--config", "c.toml", "--state-dir", "s")) == 0
        states = [call[1][0].state_dir for call in core.calls]
        assert len(set(states)) == 3
        assert states[2] == str(tmp_path / "s")

    @pytest.mark.parametrize(
        ("words", "word"),
        [
            (["init"], "no tier given"),
            (["init", "--tier", "vault"], "is not NAME=URL"),
            (["init", "--tier", "v=a", "--tier", "v=b"], "two tiers are called v"),
            (["init", "--tier", "V=a"], "'V'"),
            (["init", "--tier", "v=sftp://b:hunter2@h/t"], "a password in the URL"),
            (["init", "none", "--tier", "v=a"], "is not there"),
        ],
    )
    def test_mistakes(
        self, words: list[str], word: str, core: Core, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert app.run(words) == 2
        err = capsys.readouterr().err
        assert word in err and err.count("\n") == 1 and "hunter2" not in err
        assert core.calls == [] and not (tmp_path / "c").exists()


@dataclass
class InitResult:
    repository_id: bytes
    tiers: list[str]
    resumed: bool


@dataclass
class HostKey:
    type: str
    fingerprint: str


class TestHostKeys:
    """Fingerprints are confirmed by a person, or named by a script; never taken on trust."""

    keys = (HostKey("ssh-ed25519", "SHA256:right"), HostKey("ssh-rsa", "SHA256:also"))

    def test_named_by_a_script(self) -> None:
        check = importlib.import_module("tandem_agent.cli.configuring").host_key_check
        assert check({"SHA256:right"})("remote", self.keys)
        with pytest.raises(Exception, match="none that --accept-host-key names"):
            check({"SHA256:other"})("remote", self.keys)

    def test_nobody_there_to_ask(self) -> None:
        check = importlib.import_module("tandem_agent.cli.configuring").host_key_check
        with pytest.raises(Exception, match=r"is not confirmed.*--accept-host-key"):
            check(set())("remote", self.keys)


@dataclass
class Key:
    id: str
    kind: str
    label: str
    created: int


def test_keys_show_no_secret(
    core: Core, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = Key("12" * 32, "passphrase", "in the safe", 1_795_000_000)
    core.answers |= {"key add": key, "key list": [key], "key remove": key}
    (tmp_path / "new").write_text("another secret\n")
    for words in (
        ["key", "add", "--label", "in the safe", "--new-passphrase-file", str(tmp_path / "new")],
        ["key", "list"],
        ["key", "remove", "1212"],
    ):
        assert app.run(words) == 0
        assert app.run([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "in the safe" in out
    for secret in (PASSPHRASE, "another secret"):
        assert secret not in out + err
    assert core.calls[0][1] == (AGENT, PASSPHRASE, "another secret", "in the safe")
    assert core.calls[-1][1] == (AGENT, PASSPHRASE, "1212")


def test_backups_json_has_the_fields_of_the_contract(
    core: Core, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core.answers["backups"] = [made("26112101", 2), made("261122**", 3, status="failed", error="disk gone")]
    assert app.run(["backups", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    contract = {"id", "name", "revision", "trigger", "started", "ended", "by", "status", "error", "area"}
    assert first.keys() >= contract | {"files", "bytes", "tiers"}
    assert (first["id"], first["bytes"], first["tiers"]) == ("02" * 16, 2_000, ["vault"])
    assert second["error"] == "disk gone"
    assert app.run(["backups"]) == 0
    assert "261122**" in capsys.readouterr().out
    assert app.run(["backups", "show", "26112101", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert app.run(["backups", "show", "26112109"]) == 1
    assert "there is no backup 26112109" in capsys.readouterr().err


def test_how_a_backup_is_named() -> None:
    backups = [
        made("26112101", 2),
        made("26112102", 5, status="partial"),
        made("261122**", 7, status="failed"),
        made("261122**", 8, status="failed"),
    ]
    assert find_backup(backups, "latest") is backups[1]
    assert find_backup(backups, "26112101") is backups[0]
    assert find_backup(backups, "05050505") is backups[1]
    with pytest.raises(Missing):
        find_backup(backups, "0505")
    with pytest.raises(Usage, match=r"2 backups are called 261122\*\*"):
        find_backup(backups, "261122**")
    with pytest.raises(Missing, match="there is no backup yet"):
        find_backup(backups[2:], "latest")


def made(name: str, revision: int, **fields: Any) -> BackupInfo:
    """A backup of that name, on the vault."""
    common: dict[str, Any] = {
        "id": bytes([revision]) * 16,
        "name": name,
        "revision": revision,
        "trigger": "manual",
        "started": "2026-11-21T20:00:00+01:00",
        "ended": "2026-11-21T20:01:00+01:00",
        "by": "branch7",
        "status": "complete",
        "error": "",
        "area": "recent",
        "files": 3,
        "bytes": 2_000,
        "snapshot": bytes(32),
        "tiers": ["vault"],
    }
    return BackupInfo(**(common | fields))


def test_quiet_says_nothing_when_all_is_well(
    core: Core, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["backup", "--quiet"]) == 0
    core.answers["sync"] = types.SimpleNamespace(tiers=[SyncTier("remote", "online")], lost=0, damaged=[])
    assert app.run(["sync", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    gone = SyncTier("remote", "offline", reason="gone")
    core.answers["sync"] = types.SimpleNamespace(tiers=[gone], lost=0, damaged=[])
    assert app.run(["sync", "-q"]) == 5
    assert capsys.readouterr() == ("", "tandem: remote is offline: gone\n")
    core.answers["backup"] = Result(status="partial", warnings=["a: permission denied"])
    assert app.run(["backup", "--quiet"]) == 3
    assert capsys.readouterr() == ("", "warning: a: permission denied\n")


@pytest.mark.parametrize(
    ("tier", "said"),
    [
        (
            Told(
                "remote", "blocked", False, "no space left: make \x1b room", "no space left: make \x1b room"
            ),
            "tandem: remote is blocked and has not got the backup: no space left: make \\x1b room\n",
        ),
        (
            Told("remote", "lagging", False, "lacks revisions", "no \x1b space"),
            "tandem: remote is lagging and has not got the backup: lacks revisions; blocked before: no \\x1b space\n",
        ),
        (Told("remote", "offline", False, "connection refused", "no space"), ""),
        (Told("remote", "blocked", True, "refused afterwards", "refused afterwards"), ""),
        (Told("remote", "offline", False, "connection refused"), ""),
        (Told("remote", "lagging", False, "lacks revisions"), ""),
    ],
)
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_quiet_backup_names_the_tiers_that_need_a_hand(
    tier: Told, said: str, words: list[str], core: Core, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core.answers["backup"] = Result(tiers=[Told("vault", "online", True), tier])
    assert app.run(["backup", "--quiet", *words]) == 0
    out, err = capsys.readouterr()
    assert err == said
    assert bool(out) == bool(words)
