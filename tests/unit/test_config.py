"""The configuration file of cli.md: what it means, and that every mistake names its line and the way out.

Issue 3, "Bad input": a configuration with an unknown key.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_agent.config import Config, RetryConfig, TierConfig, default_config_path, load_config
from tandem_agent.config_read import parse_config
from tandem_agent.config_write import render_config, write_new
from tandem_agent.places import Place, parse_place
from tandem_agent.tiers.pace import LagBudget
from tandem_protocol.errors import Exists, Usage

CONTRACT = """\
sources = ["/srv/data"]
exclude = ["*.tmp", "node_modules/"]

[[tier]]
name = "vault"
url = "file:///mnt/nas/tandem"

[[tier]]
name = "remote"
url = "sftp://branch7@backup.example.net:2022/tandem"
identity_file = "~/.ssh/id_ed25519"
"""
AT = "/etc/tandem/agent.toml"


def test_the_example_of_the_contract_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/branch7")
    config = parse_config(CONTRACT, AT)
    assert config.sources == (b"/srv/data",)
    assert config.exclude == ("*.tmp", "node_modules/")
    vault, remote = config.tiers
    assert (vault.name, vault.place) == ("vault", Place("file", "/mnt/nas/tandem"))
    assert remote.place == Place("sftp", "tandem", "backup.example.net", 2022, "branch7")
    assert remote.identity_file == "/home/branch7/.ssh/id_ed25519"
    assert remote.retries == RetryConfig(attempts=10, first_delay_seconds=1.0, max_delay_seconds=60.0)


def test_relative_names_begin_at_the_configuration_file() -> None:
    config = parse_config(
        'sources = ["data"]\nstate_dir = "state"\n[[tier]]\nname = "v"\nurl = "../nas"\n',
        "/home/x/tandem/a.toml",
    )
    assert config.sources == (b"/home/x/tandem/data",)
    assert config.state_dir == "/home/x/tandem/state"
    assert config.tiers[0].url == "file:///home/x/nas"
    assert config.known_hosts_path == "/home/x/tandem/state/known_hosts"


@pytest.mark.parametrize(
    ("change", "line", "word", "remedy"),
    [
        (("exclude =", "excludes ="), 2, "unknown key 'excludes'", "'exclude'"),
        (('url = "sftp', 'ulr = "sftp'), 10, "unknown key 'ulr'", "'url'"),
        (("identity_file", "identityfile"), 11, "unknown key 'identityfile'", "'identity_file'"),
        (("identity_file", "zzzzzz"), 11, "unknown key 'zzzzzz'", "known here: name, url"),
        (('"vault"', '"Vault!"'), 5, "'Vault!'", "a to z"),
        (('"remote"', '"vault"'), 9, "two tiers are called vault", "another name"),
        (("sftp://", "gopher://"), 10, "gopher://", "file://"),
        (("sftp://", "ftp://"), 11, "identity_file means nothing for ftp://", "take it out"),
        (("branch7@", "branch7:hunter2@"), 10, "a password in the URL", "password_command"),
        (('["/srv/data"]', '"/srv/data"'), 1, "sources must be a list", "["),
        (('["/srv/data"]', "[1]"), 1, "sources must be a list", "["),
        (("exclude =", 'state_dir = ""\nexclude ='), 2, "state_dir is empty", "take the line out"),
        (("identity_file =", "tier_id ="), 11, "32 hex digits", "tandem tiers"),
        (("identity_file =", "password ="), 11, "a password must not stand", "password_file"),
    ],
)
def test_every_mistake_names_its_line_and_the_way_out(
    change: tuple[str, str], line: int, word: str, remedy: str
) -> None:
    text = CONTRACT.replace(*change)
    assert text != CONTRACT
    with pytest.raises(Usage) as error:
        parse_config(text, AT)
    assert error.value.what.startswith(f"{AT}, line {line}: ")
    assert word in error.value.what
    assert remedy in error.value.remedy
    assert "hunter2" not in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("retries", "word"),
    [
        ("{ attempts = 0 }", "attempts = 0"),
        ("{ attempts = true }", "attempts"),
        ("{ attempts = 2.5 }", "attempts"),
        ("{ attemts = 3 }", "'attemts'"),
        ("{ first_delay_seconds = -1 }", "first_delay_seconds"),
        ("{ first_delay_seconds = nan }", "first_delay_seconds"),
        ("{ first_delay_seconds = 9, max_delay_seconds = 3 }", "below first_delay_seconds"),
        ("3", "must be a table"),
    ],
)
def test_retries_are_checked(retries: str, word: str) -> None:
    with pytest.raises(Usage, match=word):
        parse_config(f"{CONTRACT}retries = {retries}\n", AT)


def test_lag_budgets_are_read_and_checked() -> None:
    config = parse_config(f"{CONTRACT}lag_budget_seconds = 0\nlag_budget_bytes = 1000\n", AT)
    assert config.tiers[0].lag_budget == LagBudget(32 << 20, 3600)
    assert config.tiers[1].lag_budget == LagBudget(1000, 0)
    assert parse_config(f"{CONTRACT}lag_budget_seconds = 604800\n", AT).tiers[1].lag_budget.seconds == 604_800
    for wrong in ("lag_budget_bytes = -1", "lag_budget_bytes = 1.5", "lag_budget_seconds = true"):
        with pytest.raises(Usage, match="cannot be used"):
            parse_config(f"{CONTRACT}{wrong}\n", AT)


def test_retries_are_read() -> None:
    config = parse_config(f"{CONTRACT}\n[tier.retries]\nattempts = 3\nfirst_delay_seconds = 0\n", AT)
    assert config.tiers[1].retries == RetryConfig(3, 0.0, 60.0)
    assert config.tiers[0].retries == RetryConfig()


def test_a_mistake_in_a_sub_table_has_its_line() -> None:
    with pytest.raises(Usage, match=r"line 14: unknown key 'atempts'"):
        parse_config(f"{CONTRACT}\n[tier.retries]\natempts = 3\n", AT)


def test_disks_that_take_turns_share_a_url_when_each_names_its_tier_id() -> None:
    disk = '[[tier]]\nname = "{}"\nurl = "/media/backup"\n{}'
    with pytest.raises(Usage, match="same URL"):
        parse_config(disk.format("a", "") + disk.format("b", ""), AT)
    ids = [f'tier_id = "{i:032x}"\n' for i in (1, 2)]
    config = parse_config(disk.format("a", ids[0]) + disk.format("b", ids[1]), AT)
    assert [t.tier_id for t in config.tiers] == [(1).to_bytes(16, "big"), (2).to_bytes(16, "big")]
    with pytest.raises(Usage, match="same URL"):
        parse_config(disk.format("a", ids[0]) + disk.format("b", ids[0]), AT)


@pytest.mark.parametrize("text", ["sources = [", "a = 1\na = 2", "[[tier]\n", "\x00"])
def test_text_that_is_no_toml(text: str) -> None:
    with pytest.raises(Usage, match="not valid TOML"):
        parse_config(text, AT)


def test_no_tier_at_all() -> None:
    with pytest.raises(Usage, match="no tier is configured"):
        parse_config('sources = ["/srv"]\n', AT)


def test_options_of_sftp_mean_nothing_for_a_folder() -> None:
    with pytest.raises(Usage, match="line 3: password_file means nothing for a folder"):
        parse_config('[[tier]]\nname="v"\npassword_file = "x"\nurl = "/mnt"\n', AT)


def test_commands_are_lists_or_split_like_a_shell_does() -> None:
    for value in ('["pass", "show", "my tandem"]', "\"pass show 'my tandem'\""):
        config = parse_config(f"passphrase_command = {value}\n{CONTRACT}", AT)
        assert config.passphrase_command == ("pass", "show", "my tandem")
    with pytest.raises(Usage, match="line 1: passphrase_command"):
        parse_config(f'passphrase_command = "pass \'"\n{CONTRACT}', AT)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(Usage, match=r"no configuration at .*none.toml.*tandem init"):
        load_config(str(missing))
    with pytest.raises(Usage, match="cannot read the configuration"):
        load_config(str(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b"exclude = ['\xe9']\n")
    with pytest.raises(Usage, match="not UTF-8"):
        load_config(str(tmp_path / "latin.toml"))
    (tmp_path / "huge.toml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(Usage, match="over 1 MiB"):
        load_config(str(tmp_path / "huge.toml"))


def test_where_the_configuration_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TANDEM_CONFIG", str(tmp_path / "there.toml"))
    assert default_config_path() == str(tmp_path / "there.toml")
    (tmp_path / "there.toml").write_text(CONTRACT)
    (tmp_path / "other.toml").write_text(CONTRACT.replace("/srv/data", "/srv/other"))
    assert load_config().sources == (b"/srv/data",)
    assert load_config(str(tmp_path / "other.toml")).sources == (b"/srv/other",)
    monkeypatch.delenv("TANDEM_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert default_config_path() == str(tmp_path / "xdg/tandem/agent.toml")


PATHS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=20
).filter(lambda part: part not in (".", "..") and not part.startswith("~"))


@given(
    source=PATHS,
    pattern=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    folder=PATHS,
)
def test_what_is_written_is_read_back_the_same(source: str, pattern: str, folder: str) -> None:
    config = Config(
        tiers=(
            TierConfig("vault", Place("file", f"/mnt/{folder}")),
            TierConfig(
                "remote",
                Place("sftp", folder, "example.net", 22, "branch 7"),
                tier_id=bytes(range(16)),
                identity_file=f"/home/{source}",
                password_command=("show", pattern),
            ),
        ),
        state_dir=f"/var/lib/{folder}",
        sources=(os.fsencode(f"/srv/{source}"),),
        exclude=(pattern,),
        passphrase_command=("cat", source),
        path=AT,
    )
    assert parse_config(render_config(config, write_state_dir=True), AT) == config


def test_a_source_that_is_not_utf8_cannot_be_configured() -> None:
    config = Config(tiers=(), state_dir="/x", sources=(b"/srv/\xff",))
    with pytest.raises(Usage, match="not UTF-8"):
        render_config(config, write_state_dir=False)


def test_the_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "new" / "agent.toml"
    write_new(str(path), CONTRACT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(Exists):
        write_new(str(path), "other")
    assert path.read_text() == CONTRACT
    assert os.listdir(path.parent) == ["agent.toml"]


@pytest.mark.parametrize(
    ("url", "place", "normal"),
    [
        ("/mnt/nas/", Place("file", "/mnt/nas"), "file:///mnt/nas"),
        ("nas", Place("file", "/base/nas"), "file:///base/nas"),
        ("file:///a%20b%23c", Place("file", "/a b#c"), "file:///a%20b%23c"),
        ("file:///a%ff", Place("file", "/a\udcff"), "file:///a%FF"),
        ("sftp://b@h:22/t", Place("sftp", "t", "h", 22, "b"), "sftp://b@h/t"),
        ("SFTP://b@H/~/t/", Place("sftp", "t", "h", 22, "b"), "sftp://b@h/t"),
        ("sftp://b@h//srv/t", Place("sftp", "/srv/t", "h", 22, "b"), "sftp://b@h//srv/t"),
        ("sftp://b%40c@[::1]:99/t", Place("sftp", "t", "::1", 99, "b@c"), "sftp://b%40c@[::1]:99/t"),
    ],
)
def test_urls_have_one_normal_form(url: str, place: Place, normal: str) -> None:
    assert parse_place(url, "/base") == place
    assert place.url == normal
    assert parse_place(normal, "/elsewhere") == place


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file://host/x",
        "sftp://h",
        "sftp://h/",
        "sftp://h/..",
        "sftp:///x",
        "sftp://h:x/y",
        "sftp://h/x?y",
        "s3://b/c",
        "sftp://-oProxyCommand=x/y",
        "sftp://-l@h/y",
        "sftp://h/%00",
        "file:///%00",
        "sftp://u:secret@h/x",
    ],
)
def test_bad_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(Usage) as error:
        parse_place(url, "/")
    assert error.value.remedy
    assert "secret" not in str(error.value)


def test_of_an_unknown_kind_it_is_said_which_there_are() -> None:
    with pytest.raises(Usage, match="unknown kind of tier http://") as error:
        parse_place("http://h/x", "/")
    for scheme in ("file://", "sftp://", "ftpes://", "ftps://"):
        assert scheme in error.value.remedy


PIN = "5F:0C:" * 15 + "5F:0C"


def ftp_tier(url: str, *lines: str) -> str:
    return "\n".join(["[[tier]]", 'name = "remote"', f'url = "{url}"', *lines, ""])


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("ftpes://b@host/tandem", Place("ftpes", "tandem", "host", 21, "b")),
        ("ftps://b@host//srv/tandem", Place("ftps", "/srv/tandem", "host", 990, "b")),
        ("ftp://b@[::1]:2121/tandem", Place("ftp", "tandem", "::1", 2121, "b")),
    ],
)
def test_ftp_urls(url: str, place: Place) -> None:
    assert parse_place(url, "/") == place
    assert place.url == url
    assert parse_place(place.url, "/") == place


def test_how_an_ftp_server_is_trusted_is_read_and_written_again() -> None:
    text = ftp_tier(
        "ftpes://b@host/tandem", f'certificate_fingerprint = "SHA256:{PIN}"', 'password_file = "p"'
    )
    tier = parse_config(text, AT).tiers[0]
    assert tier.certificate_fingerprint == "5f0c" * 16
    assert tier.password_file == "/etc/tandem/p"
    plain = parse_config(ftp_tier("ftp://b@host/tandem", "insecure = true"), AT)
    authority = parse_config(ftp_tier("ftps://b@host/tandem", 'ca_file = "ca.pem"'), AT)
    assert authority.tiers[0].ca_file == "/etc/tandem/ca.pem"
    for config in (parse_config(text, AT), plain, authority):
        assert parse_config(render_config(config, write_state_dir=True), AT).tiers == config.tiers


@pytest.mark.parametrize(
    ("url", "line", "word"),
    [
        ("ftp://b@host/tandem", "", "for all to read"),
        ("ftp://b@host/tandem", "insecure = false", "for all to read"),
        ("ftp://b@host/tandem", 'insecure = "yes"', "true or false"),
        ("ftpes://b@host/tandem", "insecure = true", "insecure means nothing for ftpes://"),
        ("sftp://b@host/tandem", f'certificate_fingerprint = "{PIN}"', "means nothing for sftp://"),
        ("/mnt/nas", 'ca_file = "x"', "ca_file means nothing for a folder"),
        ("ftps://b@host/tandem", 'certificate_fingerprint = "5f0c"', "not a SHA-256 fingerprint"),
        ("ftps://b@host/tandem", f'certificate_fingerprint = "{PIN}"\nca_file = "x"', "both ca_file and"),
        ("ftps://b:secret@host/tandem", "", "a password in the URL"),
        ("ftps://b@host", "", "no folder"),
    ],
)
def test_mistakes_about_ftp_are_told(url: str, line: str, word: str) -> None:
    with pytest.raises(Usage, match=word) as caught:
        parse_config(ftp_tier(url, line), AT)
    assert "secret" not in str(caught.value)
    assert caught.value.remedy
