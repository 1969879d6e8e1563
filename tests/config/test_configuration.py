from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import Any

import pytest
import tomli

from azaion_imagebuild.config.loading import keys, load
from azaion_imagebuild.config.state_dir import state_dir_of
from azaion_imagebuild.errors import UsageError
from azaion_imagebuild.shipped import shipped

PLACE = ("bsp", "board")


def test_flags_come_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    config = tmp_path / "imagebuild.toml"
    environ: dict[str, str] = {}
    assert load({}, environ, None).bsp.board == "jetson-orin-nano-devkit"
    config.write_text('[bsp]\nboard = "from-file"\n')
    assert load({}, environ, config).bsp.board == "from-file"
    environ["AZAION_IMAGEBUILD_BOARD"] = "from-variable"
    assert load({}, environ, config).bsp.board == "from-variable"
    assert load({PLACE: "from-flag"}, environ, config).bsp.board == "from-flag"


def test_a_byte_order_mark_is_not_part_of_the_file(tmp_path: Path) -> None:
    config = tmp_path / "imagebuild.toml"
    config.write_bytes(b'\xef\xbb\xbf[bsp]\r\nboard = "from-windows"\r\n')
    assert load({}, {}, config).bsp.board == "from-windows"


def test_a_file_that_is_nested_too_deeply_is_not_toml(tmp_path: Path) -> None:
    config = tmp_path / "imagebuild.toml"
    config.write_text("x = " + "[" * 100_000)
    with pytest.raises(UsageError, match="is not TOML"):
        load({}, {}, config)


@pytest.mark.parametrize("odd", ["", "state", "./state", "..", "~nobody-like-this/state"])
def test_an_odd_state_folder_of_xdg_does_not_move_the_ledger(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", odd)
    assert state_dir_of(load({}, {}, None)) == tmp_path / ".local/state/azaion-imagebuild"


@pytest.mark.parametrize("odd", ["", ".", "home"])
def test_an_odd_home_does_not_move_the_ledger(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", odd)
    monkeypatch.delenv("XDG_STATE_HOME")
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert state_dir_of(load({}, {}, None)) == Path(home) / ".local/state/azaion-imagebuild"


@pytest.mark.parametrize("absolute", ["{home}/a b", "{home}/100%?x#y", "~/elsewhere"])
def test_an_absolute_state_folder_of_xdg_is_taken_as_it_is(
    absolute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", absolute.format(home=tmp_path))
    wanted = absolute.format(home=tmp_path).replace("~", str(tmp_path))
    assert state_dir_of(load({}, {}, None)) == Path(wanted) / "azaion-imagebuild"


def test_the_file_of_this_folder_is_read_without_a_flag() -> None:
    Path("imagebuild.toml").write_text('[bsp]\nboard = "here"\n')
    assert load({}, {}, None).bsp.board == "here"


def test_relative_paths_of_a_file_start_at_the_file(tmp_path: Path) -> None:
    config = tmp_path / "site" / "imagebuild.toml"
    config.parent.mkdir()
    config.write_text('[hooks]\ndirs = ["hooks", "/srv/hooks"]\n[bsp]\ndir = "l4t"\n')
    settings = load({}, {}, config)
    assert settings.hooks.dirs == [config.parent / "hooks", Path("/srv/hooks")]
    assert settings.bsp.dir == config.parent / "l4t"
    assert load({("bsp", "dir"): "l4t"}, {}, config).bsp.dir == Path.cwd() / "l4t"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[bsp]\nbord = 'x'", "unknown key [bsp] bord", "board"),
        ("[admin-api]\nurl = 'x'", "unknown section [admin-api]", "admin_api"),
        ("board = 'x'", "unknown section [board]", "known are"),
        ("bsp = 1", "must be a section", "[bsp]"),
        ("[bsp]\nboard = 3", "[bsp] board", "board: the name"),
        ("[admin_api]\nretries = -1", "not a whole number", "retries"),
        ("[admin_api]\nread_timeout = 'soon'", "not a number of seconds", "seconds"),
        ("[admin_api]\nread_timeout = true", "not a number of seconds", "seconds"),
        ("[build]\nflash = 'maybe'", "not yes or no", "flash"),
        ("[serial]\npattern = '('", "not a regular expression", "pattern"),
        ("[admin_api]\nheaders = 'x'", "not a table", "headers"),
        ("[bsp]\nsize = '14 GB'", "not a size like 14GiB", "APP"),
        ("[bsp]\ndir = ''", "is set, but empty", "Linux_for_Tegra"),
        ("[admin_api]\nurl = ''", "url in", "or leave it out; [admin_api] url: base URL"),
        ("[admin_api]\nurl = ''", "is set, but empty", "base URL"),
        ("[build]\nscript_timeout = 0", "seconds above 0", "script"),
        ("[bsp]\nsuccess = ' '", "not words of one line, without blanks", "only when"),
        ('[fuse]\nsuccess = "\\n"', "not words of one line", "its exit code"),
        ("[bsp]\nargs = [1]", "not a list of texts", "args"),
        ("[bsp", "is not TOML", "templates/imagebuild.toml"),
        ("[bsp]\nboard = '\x01'", "is not TOML", "templates/imagebuild.toml"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_what_and_the_way_out(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    config = tmp_path / "imagebuild.toml"
    config.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        load({}, {}, config)
    assert hint in caught.value.hint


def test_a_file_that_is_not_there_is_an_error_only_when_it_was_named(tmp_path: Path) -> None:
    load({}, {}, None)
    with pytest.raises(UsageError, match="cannot read the configuration"):
        load({}, {}, tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("API_ULR", "did you mean AZAION_IMAGEBUILD_API_URL?"),
        ("ADMIN_API_URL", "did you mean AZAION_IMAGEBUILD_API_URL?"),
        ("BSP_DIR", "did you mean AZAION_IMAGEBUILD_BSP?"),
        ("ADMIN_API_HEADERS", "a table can only be in the file"),
    ],
)
def test_an_unknown_variable_names_the_one_that_is_meant(variable: str, hint: str) -> None:
    name = f"AZAION_IMAGEBUILD_{variable}"
    with pytest.raises(UsageError, match=name) as caught:
        load({}, {name: "x"}, None)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("variable", "text", "place", "value"),
    [
        ("API_URL", "http://h", ("admin_api", "url"), "http://h"),
        ("FLASH", "0", ("build", "flash"), False),
        ("HOOKS_DISABLE", "smoke 'other one'", ("hooks", "disable"), ["smoke", "other one"]),
        ("ADMIN_API_RETRIES", "7", ("admin_api", "retries"), 7),
        ("ADMIN_API_READ_TIMEOUT", "1.5", ("admin_api", "read_timeout"), 1.5),
    ],
)
def test_variables_carry_every_kind(
    variable: str, text: str, place: tuple[str, str], value: Any
) -> None:
    settings = load({}, {f"AZAION_IMAGEBUILD_{variable}": text}, None)
    assert getattr(getattr(settings, place[0]), place[1]) == value


def test_the_template_documents_every_key_with_its_default() -> None:
    text = (shipped("templates") / "imagebuild.toml").read_text()
    assert tomli.loads(text) == {key.section: {} for key in keys()}
    # uncommented, it is the defaults; keys without one show an example
    uncommented = re.sub(r"(?m)^#(?=[a-z_]+ = )", "", text)
    document = tomli.loads(uncommented)
    for key in keys():
        value = document[key.section].pop(key.name)
        if key.default is not None and not isinstance(key.default, list | dict):
            assert value == (str(key.default) if key.kind == "path" else key.default), key
        assert key.help in text, key
        assert key.kind == "table" or key.env in text, key
    assert not any(document.values())


def test_the_uncommented_template_can_be_loaded(tmp_path: Path) -> None:
    text = (shipped("templates") / "imagebuild.toml").read_text()
    config = tmp_path / "imagebuild.toml"
    config.write_text(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", text))
    load({}, {}, config)
