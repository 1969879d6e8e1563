"""device.conf in the rootfs of a build: its owner, writing it, removing it."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import OperatorError, StagingError
from ..identity import device_conf
from ..identity.placeholder import placeholder
from ..model import (
    DEVICE_CONF,
    DEVICE_CONF_MODE,
    Build,
    DeviceIdentity,
    Finding,
    Ownership,
    StagedFile,
)
from ..settings import DeviceConfSettings
from .accounts import Accounts, UnknownAccount
from .tree import Node, Rootfs

_MOST_NAMES = 40


def findings(build: Build) -> list[Finding]:
    """Return what would keep device.conf from being staged; change nothing."""
    try:
        device_conf.template_of(build.settings.device_conf)
        if build.rootfs_dir.is_dir() and build.rootfs_dir.samefile("/"):
            message = f"the rootfs {build.rootfs_dir} is this host's own root directory"
            return [Finding(message=message, hint="give the folder of the device's rootfs")]
        with Rootfs(build.rootfs_dir) as rootfs:
            existing = rootfs.look(DEVICE_CONF)
            if existing is not None and (wrong := _in_its_place(existing)):
                return [wrong]
            return _owner_findings(build, rootfs, existing)
    except OperatorError as error:
        return [Finding(message=error.message, hint=error.hint)]


def _in_its_place(existing: Node) -> Finding | None:
    """Refuse what cannot be replaced safely; a plain file can."""
    if existing.kind != "regular file":
        return Finding(
            message=f"{DEVICE_CONF} in the rootfs is a {existing.kind}",
            hint="remove it from the rootfs, then run the same command again",
        )
    if existing.links > 1:
        return Finding(
            message=f"{DEVICE_CONF} in the rootfs has {existing.links} names (hard links): the"
            " others would keep an old identity",
            hint="find them by find -samefile, remove them, then run the same command again",
        )
    return None


def _owner_findings(build: Build, rootfs: Rootfs, existing: Node | None) -> list[Finding]:
    try:
        uid, gid = owner(build.settings.device_conf, rootfs)
    except UnknownAccount as error:
        if existing is None:
            return [unknown_account(error)]
        uid, gid = existing.uid, existing.gid
    if closed := _closed_folder(build, rootfs, existing, (uid, gid)):
        return [closed]
    if existing is not None and (existing.uid, existing.gid) != (uid, gid):
        return [
            Finding(
                severity="warning",
                message=f"{DEVICE_CONF} in the rootfs belongs to {existing.uid}:{existing.gid} and"
                f" keeps that owner, not {uid}:{gid} of the configuration",
                hint=f'chown it in the rootfs, or set [device_conf] owner = "{existing.uid}"',
            )
        ]
    return []


def _closed_folder(
    build: Build, rootfs: Rootfs, existing: Node | None, configured: tuple[int, int]
) -> Finding | None:
    """Find a folder above device.conf that its owner may not search."""
    uid, gid = (existing.uid, existing.gid) if existing else configured
    folders = DEVICE_CONF.split("/")[:-1]
    for count in range(1, len(folders) + 1):
        path = "/".join(folders[:count])
        node = rootfs.look(path)
        if node is not None and node.kind == "directory" and not node.may_search(uid, gid):
            return Finding(
                message=f"/{path} in the rootfs has mode {node.mode & 0o7777:04o}: the owner of"
                f" device.conf ({uid}:{gid}) could not reach it",
                hint=f"chmod 755 {build.rootfs_dir}/{path}, or set [device_conf] owner",
            )
    return None


def unknown_account(error: UnknownAccount) -> Finding:
    """Return the finding that names the missing account and the known ones."""
    known = ", ".join(error.known[:_MOST_NAMES]) or "none at all"
    return Finding(
        message=str(error),
        hint="add the account to the rootfs, or set [device_conf] owner and group; there are:"
        f" {known}",
    )


def owner(settings: DeviceConfSettings, rootfs: Rootfs) -> tuple[int, int]:
    """Return (uid, gid) of the account that runs the Loader, by the rootfs's own passwd.

    Raises:
        UnknownAccount: the rootfs has no such account.
        StagingError: its passwd or group cannot be read.
    """
    return Accounts.read(rootfs.read_file).resolve(settings.owner, settings.group)


def clear_stale(build: Build) -> Ownership:
    """Remove the device.conf of an earlier attempt; return the owner of the new one.

    The new one gets the owner and xattrs of an existing one.
    """
    with Rootfs(build.rootfs_dir) as rootfs:
        ownership = ownership_in(build, rootfs)
        rootfs.remove_file(DEVICE_CONF)
    return ownership


def ownership_in(build: Build, rootfs: Rootfs) -> Ownership:
    """Return the owner of device.conf: that of an existing file, or the configured one.

    Raises:
        UnknownAccount: the rootfs has no such account.
        StagingError: it cannot be read.
    """
    if rootfs.look(DEVICE_CONF) is not None:
        return rootfs.ownership(DEVICE_CONF)
    uid, gid = owner(build.settings.device_conf, rootfs)
    return Ownership(uid=uid, gid=gid)


def stage(build: Build, identity: DeviceIdentity, ownership: Ownership) -> StagedFile:
    """Render device.conf and write it into the rootfs, with mode 0600."""
    template = device_conf.template_of(build.settings.device_conf)
    with Rootfs(build.rootfs_dir) as rootfs:
        return rootfs.write_file(
            DEVICE_CONF,
            device_conf.render(template, identity),
            mode=DEVICE_CONF_MODE,
            ownership=ownership,
        )


def stage_placeholder(build: Build, ownership: Ownership) -> StagedFile:
    """Write the placeholder into the rootfs, with the owner and mode of device.conf."""
    content = placeholder(build.settings.image.placeholder_size)
    with Rootfs(build.rootfs_dir) as rootfs:
        return rootfs.write_file(DEVICE_CONF, content, mode=DEVICE_CONF_MODE, ownership=ownership)


def unstage(build: Build, staged: Sequence[StagedFile]) -> None:
    """Remove device.conf, and the directories created for it, from the rootfs.

    What :func:`findings` refuses (a link, a device, a file with several names) stays as it is.
    """
    if not build.rootfs_dir.is_dir():
        return
    with Rootfs(build.rootfs_dir) as rootfs:
        existing = rootfs.look(DEVICE_CONF)
        ours = any(each.path == DEVICE_CONF for each in staged)
        if ours or existing is None or _in_its_place(existing) is None:
            rootfs.remove_file(DEVICE_CONF)
        for each in staged:
            if each.path == DEVICE_CONF:
                rootfs.remove_dirs(each.new_dirs)
    if ours and existing is not None and existing.links > 1:
        raise StagingError(
            f"{DEVICE_CONF} was given a second name (a hard link) while the image was built",
            hint="find what links it and remove that file: it holds the device's password",
        )
