"""Finding and loading plug-ins: entry points, shipped hooks, a site's own folders."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import pluggy

from ..errors import UsageError
from ..model import Build, Finding
from ..settings import HooksSettings
from ..shipped import shipped
from ..system.files import check_plain
from . import hookspecs

GROUP = "azaion_imagebuild"
_PACKAGE = "azaion_imagebuild_hooks"


def load_plugins(
    settings: HooksSettings, *, required: Sequence[str] = hookspecs.REQUIRED
) -> pluggy.PluginManager:
    """Return a plug-in manager with every plug-in that this site uses.

    Calls go to the site's folders first, then to entry points, then to the shipped hooks, each in
    the order of file names: a site's answer comes before ours.

    Raises:
        UsageError: a plug-in cannot be loaded, implements an unknown hook, or has a name that is
            taken; a name to disable is unknown; a ``required`` step has no plug-in.
    """
    manager = shipped_plugins(settings.disable)  # pluggy calls the last registered first
    known = {path.stem for path in _files(shipped("hooks"))}
    known |= _load_entry_points(manager)
    _register_files(manager, settings.dirs)
    known |= {path.stem for folder in settings.dirs for path in _files(folder)}
    _refuse_unknown(settings.disable, known)
    _check(manager, required)
    return manager


def no_plugins() -> pluggy.PluginManager:
    """Return a plug-in manager with the steps, but without any plug-in."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def shipped_plugins(disable: Sequence[str] = ()) -> pluggy.PluginManager:
    """Return a plug-in manager with the shipped hooks, except the disabled ones."""
    manager = no_plugins()
    for name in disable:
        manager.set_blocked(name)
    _register_files(manager, [shipped("hooks")])
    return manager


def add_plugin(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Add a plug-in that is called before the others: a module, an object, or a file's path.

    Raises:
        UsageError: it cannot be loaded, or implements an unknown hook.
    """
    _register(manager, _load(plugin) if isinstance(plugin, Path) else plugin, name)
    _check(manager, ())


def implementers(manager: pluggy.PluginManager, step: str) -> list[tuple[str, str]]:
    """Return (plug-in, file) of every implementation of ``step``, in the order of the calls."""
    found = []
    for impl in reversed(getattr(manager.hook, step).get_hookimpls()):
        module = sys.modules.get(getattr(impl.plugin, "__name__", ""))
        found.append((impl.plugin_name, getattr(module, "__file__", None) or "?"))
    return found


def preflight(build: Build, hook: pluggy.HookRelay) -> list[Sequence[Finding] | None]:
    """Return what plug-ins answer ``preflight``; without a device only the shipped are asked."""
    if build.is_base:
        return _preflight(build, hook, sites=False)
    answers: list[Sequence[Finding] | None] = hook.preflight(build=build)
    return answers


def preflight_of_site(build: Build, hook: pluggy.HookRelay) -> list[Sequence[Finding] | None]:
    """Return what a site's plug-ins answer ``preflight`` for a device whose host is checked."""
    return _preflight(build, hook, sites=True)


def _preflight(
    build: Build, hook: pluggy.HookRelay, *, sites: bool
) -> list[Sequence[Finding] | None]:
    asked = [impl for impl in hook.preflight.get_hookimpls() if _is_shipped(impl) != sites]
    if not asked:
        return []
    manager = no_plugins()
    for impl in asked:
        manager.register(impl.plugin, impl.plugin_name)
    answers: list[Sequence[Finding] | None] = manager.hook.preflight(build=build)
    return answers


def _is_shipped(impl: pluggy.HookImpl) -> bool:
    file = getattr(impl.plugin, "__file__", None)
    return file is not None and Path(file).parent == shipped("hooks")


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!_]*.py"))


def _register_files(manager: pluggy.PluginManager, folders: Iterable[Path]) -> None:
    for folder in reversed(list(folders)):
        if not folder.is_dir():
            raise UsageError(f"no such plug-in folder: {folder}", hint="check [hooks] dirs")
        for path in reversed(_files(folder)):
            if manager.has_plugin(path.stem):
                raise UsageError(
                    f"two plug-ins are named {path.stem}; one is {path}",
                    hint="rename the file: a plug-in's name is its file's name",
                )
            if not manager.is_blocked(path.stem):
                _register(manager, _load(path), path.stem)


def _load(path: Path) -> ModuleType:
    name = f"{_PACKAGE}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 - the name ends with .py
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the plug-in look their module up
    try:
        check_plain(path)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(
            f"the plug-in {path} cannot be loaded: {type(error).__name__}: {error}",
            hint=f"fix it, or turn it off with --disable {path.stem}",
        ) from error
    for step in hookspecs.EVERY_STEP:
        function = vars(module).get(step)
        if callable(function) and not hasattr(function, f"{GROUP}_impl"):
            raise UsageError(
                f"the plug-in {path} defines {step}, but without @hookimpl it would be ignored",
                hint="from azaion_imagebuild import hookimpl, and write @hookimpl above it",
            )
    return module


def _load_entry_points(manager: pluggy.PluginManager) -> set[str]:
    from importlib.metadata import entry_points

    known = set()
    for entry in entry_points(group=GROUP):
        known.add(entry.name)
        if manager.is_blocked(entry.name):
            continue
        try:
            plugin = entry.load()
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"the plug-in {entry.name} ({entry.value}) cannot be loaded:"
                f" {type(error).__name__}: {error}",
                hint=f"fix or uninstall it, or turn it off with --disable {entry.name}",
            ) from error
        if manager.has_plugin(entry.name):
            raise UsageError(
                f"two plug-ins are named {entry.name}; one is the entry point {entry.value}",
                hint="rename the entry point or uninstall its package",
            )
        _register(manager, plugin, entry.name)
    return known


def _register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    try:
        manager.register(plugin, name)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise UsageError(
            f"the plug-in {name} does not fit: {' '.join(str(error).split())}",
            hint="azaion-imagebuild hooks lists the steps; their arguments are in hookspecs.py",
        ) from None


def _refuse_unknown(disabled: Sequence[str], known: set[str]) -> None:
    for name in disabled:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(known))}"
            raise UsageError(f"cannot disable {name!r}: no such plug-in", hint=hint)


def _check(manager: pluggy.PluginManager, required: Sequence[str]) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise UsageError(
            f"a plug-in implements an unknown hook: {' '.join(str(error).split())}",
            hint=f"the hooks are: {', '.join(hookspecs.EVERY_STEP)}",
        ) from None
    for step in required:
        if not getattr(manager.hook, step).get_hookimpls():
            raise UsageError(
                f"no plug-in does the step {step}",
                hint="enable one: azaion-imagebuild hooks lists the steps and who does them",
            )
