"""Where settings come from: flags, environment, imagebuild.toml and defaults, in this order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from msgspec import structs

from ..errors import UsageError
from ..settings import ENV_PREFIX, Settings
from ..shipped import shipped
from ..system.files import distrust, read_plain
from .kinds import Key, convert

CONFIG_FILE = "imagebuild.toml"


@cache
def keys() -> tuple[Key, ...]:
    """Return every setting, in the order of declaration."""
    return tuple(_keys())


def _keys() -> Iterator[Key]:
    defaults = Settings()
    for section in structs.fields(Settings):
        values = getattr(defaults, section.name)
        for name, kind in get_type_hints(type(values), include_extras=True).items():
            (option,) = kind.__metadata__
            yield Key(
                section=section.name,
                name=name,
                kind=option.kind,
                default=getattr(values, name),
                help=option.help,
                env=ENV_PREFIX + (option.env or f"{section.name}_{name}".upper()),
                choices=option.choices,
            )


def load(
    flags: Mapping[tuple[str, str], Any],
    environ: Mapping[str, str],
    config: Path | None,
) -> Settings:
    """Return the settings of this call.

    Args:
        flags: (section, name) → value, only those that were given.
        environ: variables; those with the prefix ``AZAION_IMAGEBUILD_`` count.
        config: the file to read; None: ``imagebuild.toml`` of this folder, if it exists.

    Raises:
        UsageError: an unknown key or variable (the nearest known one is named), or a bad value.
    """
    known = {(key.section, key.name): key for key in keys()}
    chosen = _from_file(config, known)
    chosen.update(_from_environment(environ, known))
    for place, value in flags.items():
        key = known[place]
        chosen[place] = convert(key, value, str(key), Path())
    settings = Settings()
    for (section, name), value in chosen.items():
        part = structs.replace(getattr(settings, section), **{name: value})
        settings = structs.replace(settings, **{section: part})
    return settings


def named_config(given: str | os.PathLike[str] | None) -> Path | None:
    """Return the configuration file that a caller or the variable names; None: neither does.

    Raises:
        UsageError: the name is empty.
    """
    named = given if given is not None else os.environ.get(f"{ENV_PREFIX}CONFIG")
    if named == "":
        raise UsageError("--config (CONFIG=) is empty", hint="name a file, or leave it out")
    return None if named is None else Path(named)


def _from_file(
    config: Path | None, known: Mapping[tuple[str, str], Key]
) -> dict[tuple[str, str], Any]:
    path = config or Path(CONFIG_FILE)
    if config is None:
        if not path.is_file():
            return {}
        # It may name plug-ins, which are run; the owner of its folder could swap it at any time.
        if wrong := distrust(path.absolute(), path.absolute().parent):
            reason, command = wrong
            raise UsageError(
                f"{path} in this folder is not trusted: {reason}",
                hint=f"{command}; or name it if you trust it: --config {path}",
            )
    document = _parse_toml(path)
    sections = {section for section, _ in known}
    chosen = {}
    for section, values in document.items():
        if section not in sections:
            raise unknown(f"section [{section}] in {path}", section, sections)
        if not isinstance(values, dict):
            raise UsageError(f"{section} in {path} must be a section", hint=f"write [{section}]")
        for name, value in values.items():
            key = known.get((section, name))
            if key is None:
                names = {known_name for part, known_name in known if part == section}
                raise unknown(f"key [{section}] {name} in {path}", name, names)
            chosen[section, name] = convert(key, value, f"{key} in {path}", path.parent)
            if key.kind == "asked" and chosen[section, name]:
                raise UsageError(
                    f"{path} asks for {key}: what cannot be undone is never asked for by a file",
                    hint=f"leave it out there, and ask by --{name} ({name.upper()}=1)",
                )
    return chosen


def _parse_toml(path: Path) -> dict[str, Any]:
    import tomli

    try:
        # utf-8-sig: Windows editors begin a file with a byte order mark
        return tomli.loads(read_plain(path).decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(
            f"cannot read the configuration {path}: {error.strerror}",
            hint="name another file by --config (CONFIG=), or make this one readable",
        ) from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, or nested too deeply
        raise UsageError(
            f"{path} is not TOML: {error}",
            hint=f"compare it with {shipped('templates') / 'imagebuild.toml'}",
        ) from None


def _from_environment(
    environ: Mapping[str, str], known: Mapping[tuple[str, str], Key]
) -> dict[tuple[str, str], Any]:
    places = {key.env: place for place, key in known.items() if key.kind != "table"}
    chosen = {}
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable == ENV_PREFIX + "CONFIG":
            continue
        if variable not in places:
            raise _unknown_variable(variable, known.values())
        chosen[places[variable]] = convert(known[places[variable]], text, variable, Path())
    return chosen


def _unknown_variable(variable: str, known: Iterable[Key]) -> UsageError:
    meant = {f"{ENV_PREFIX}{key.section}_{key.name}".upper(): key for key in known}
    key = meant.get(variable)
    if key is None:
        names = {each.env for each in meant.values() if each.kind != "table"}
        return unknown(f"variable {variable}", variable, {*names, ENV_PREFIX + "CONFIG"})
    hint = f"did you mean {key.env}?" if key.kind != "table" else "a table can only be in the file"
    return UsageError(f"unknown variable {variable}: {key}", hint=hint)


def unknown(what: str, name: str, names: set[str]) -> UsageError:
    """Return the error for a name that is not in ``names``; its hint has the nearest of them."""
    from difflib import get_close_matches  # imported late: a valid call does not need it

    near = get_close_matches(name, sorted(names), n=1, cutoff=0.5)
    known = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(names))}"
    return UsageError(f"unknown {what}", hint=known)
