"""The frozen values that steps pass to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from msgspec import Struct, field

from .errors import OperatorError
from .secret import Secret

if TYPE_CHECKING:
    from .settings import Settings

T = TypeVar("T")
DEVICE_CONF = "etc/azaion/device.conf"
"""Path of the identity, relative to the root of the device's filesystem (runbook)."""

DEVICE_CONF_MODE = 0o600

PASSWD = "etc/passwd"  # noqa: S105 - a path
GROUP = "etc/group"

RELEASE_FILE = "etc/nv_tegra_release"
"""Names the L4T release of a rootfs."""

BASE = "BASE-0"
"""Used as the serial of a base build, which belongs to no device."""

LUKS = "luks"
"""The format of an encrypted image (ROOTFS_ENC=1): only what was staged can be proven."""


class Shared(Protocol):
    """What one build opens and the next one reuses: a fleet's connection to the admin API."""

    def open_once(self, name: str, make: Callable[[], AbstractContextManager[T]]) -> T:
        """Return what ``make`` opened, now or for an earlier build."""
        ...


class InLane(Struct, frozen=True, kw_only=True):
    """The lane in which a device is made, with a BSP tree of its own."""

    number: int
    """Device instance, 0 to 9, by which NVIDIA's scripts tell devices apart."""
    usb_instance: str
    """USB bus and port, e.g. ``1-3``."""


class Build(Struct, frozen=True, kw_only=True):
    """One attempt to build one device's image."""

    serial: str
    email: str
    attempt: str
    settings: Settings
    rootfs_dir: Path
    bsp_dir: Path | None = None
    """The Linux_for_Tegra tree; None when only the root filesystem is provisioned."""
    log_dir: Path
    began: float = 0.0
    """When the attempt began, in seconds since the epoch: older files are not from this build."""
    sandbox: bool = False
    flash: bool = True
    fuse: bool = False
    """The site's fuse command was asked for."""
    stamps: bool = False
    """The identity is stamped into a finished image, instead of staged into a rootfs."""
    rotates: bool = False
    """The existing account gets a new password, outside a build."""
    is_base: bool = False
    """The base of many devices is built, not one device's image; its serial is no device's."""
    shared: Shared | None = None
    """Holds what plug-ins open for the next devices of a fleet; None: a single build."""
    lock_fds: tuple[int, ...] = ()
    """Locked descriptors that scripts inherit, so that the lock lasts as long as they run."""
    packed_for: int = 1
    """For how many devices at once a base is packed (``--massflash``)."""
    lane: InLane | None = None
    """Which of several devices that are flashed at once; None: a single device."""

    @property
    def usb_instance(self) -> str | None:
        """Return where the device is plugged in; None: it is the only one in recovery mode."""
        return self.lane.usb_instance if self.lane else self.settings.bsp.usb_instance

    @property
    def keeps_image(self) -> bool:
        """Tell whether the image stays after the flash; a lane's never does."""
        return self.settings.image.keep and self.lane is None

    @property
    def overlays(self) -> bool:
        """Tell whether files are staged over the rootfs, which stays as it is."""
        return self.settings.image.staging == "overlay" and self.lane is None


class Pending(Struct, frozen=True, kw_only=True):
    """What the step ``activate_identity`` needs to give an account its new password."""

    plugin: str
    """The plug-in that sets the password."""
    account_id: str = ""
    """The account's id, if the admin API needs it."""
    answer: str = ""
    """The status by which the admin API said that the account exists, and its explanation."""


class DeviceIdentity(Struct, frozen=True, kw_only=True):
    """The account of a device at the admin API, with the password that opens it."""

    serial: str
    email: str
    password: Secret
    enrolled: Literal["created", "updated"]
    pending: Pending | None = None
    """The account exists, and still has its old password; None: it has this one."""


class Ownership(Struct, frozen=True, kw_only=True):
    """Owner, group and xattrs of a file in the rootfs."""

    uid: int
    gid: int
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


class FileEntry(Struct, frozen=True, kw_only=True):
    """A file read back from a root filesystem, in a folder or an image."""

    data: bytes
    mode: int
    """Permission bits only, e.g. 0o600."""
    uid: int
    gid: int

    def __repr__(self) -> str:
        """Return everything except the data, which may be a secret."""
        return f"FileEntry(mode={self.mode:#o}, uid={self.uid}, gid={self.gid})"


class StagedFile(Struct, frozen=True, kw_only=True):
    """A file that this build put into the root filesystem."""

    path: str
    """Relative to the root of the filesystem."""
    mode: int
    ownership: Ownership
    sha256: str = ""
    """SHA-256 of its content: the proof compares it with the file in the image."""
    new_dirs: tuple[str, ...] = ()
    """Directories that were created for it, outermost first."""


class Image(Struct, frozen=True, kw_only=True):
    """The APP image that was built."""

    path: Path
    format: str
    """The container: ``ext4`` (raw), ``sparse``, ``tar``, or ``luks`` (it cannot be read back)."""
    also: tuple[Path, ...] = ()
    """Other files that hold the same filesystem and must carry the same identity."""
    aside: tuple[Path, ...] = ()
    """Other images of this build, which reach no device; they must not hold another identity."""
    base_sha256: str | None = None
    """Digest of the image with a placeholder; None: it was built with the identity in it."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return every file of the image, the main one first."""
        return (self.path, *self.also, *self.aside)


class FlashResult(Struct, frozen=True, kw_only=True):
    """The proven image was written to a device."""

    device: str
    usb_instance: str | None = None
    """Where it was plugged in, e.g. ``1-3``; None: not known."""
    ecid: str | None = None
    """The chip's own number, from the scripts or the kernel; None: not known."""


class FuseResult(Struct, frozen=True, kw_only=True):
    """The site's fuse command succeeded."""

    command: str
    """The shell line that repeats it; it names key files, and holds no key."""
    device: str


class Finding(Struct, frozen=True, kw_only=True):
    """The result of a check; an error stops the build, a warning is shown."""

    message: str
    hint: str
    severity: Literal["error", "warning"] = "error"


class Receipt(Struct, frozen=True, kw_only=True):
    """Number and hash of a ledger row: a copy of it can detect that the row was rewritten."""

    row: int
    hash: str

    def as_json(self) -> dict[str, Any]:
        """Return the record's field ``ledger``."""
        return {"row": self.row, "hash": self.hash}


class BuildRecord(Struct, frozen=True, kw_only=True):
    """What one build did; ``as_json`` returns the line that other programs read."""

    build: Build
    outcome: Literal["started", "done", "failed"]
    seconds: float
    enrolled: str | None = None
    credential: str | None = None
    """The password's fingerprint, for the ledger."""
    release: str | None = None
    """The BSP's."""
    staged: StagedFile | None = None
    image: Image | None = None
    image_sha256: str | None = None
    """Digest of the image as it was built: ``fsverity digest FILE`` prints the same
    (:func:`.images.digest.image_digest`). None: a stamped one, which ``base_sha256`` tells of."""
    base_sha256: str | None = None
    """The same digest of the image with the placeholder, before the identity was stamped into it.
    With the credential's fingerprint, which the ledger has, it tells what a stamped image holds."""
    proven: bool = False
    """The image was read back, or what was staged for an encrypted one."""
    flashed: FlashResult | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    step: str | None = None
    error: OperatorError | None = None
    ledger: Receipt | None = None
    """Where the ledger holds the attempt."""
    log: Path | None = None
    """The attempt's log file."""

    @property
    def exit_code(self) -> int:
        """Return the process's exit code."""
        return int(self.error.exit_code) if self.error else 0

    def as_json(self) -> dict[str, Any]:
        """Return the record with the fields that design.md fixes; never the password."""
        record = {name: value(self) for name, value in _CORE.items() if value}
        record |= self.extra
        if self.error is not None:
            record |= {name: value(self) for name, value in _OF_FAILURE.items()}
        return record

    @property
    def proof(self) -> str | None:
        """Return what was proven: the ``image``, or only what was ``staged``; None: nothing."""
        if self.image is None or not self.proven:
            return None
        return "staged" if self.image.format == LUKS else "image"


def _device_conf(record: BuildRecord) -> dict[str, Any] | None:
    staged = record.staged
    if staged is None:
        return None
    return {
        "path": f"/{staged.path}",
        "mode": f"{staged.mode:04o}",
        "uid": staged.ownership.uid,
        "gid": staged.ownership.gid,
    }


_CORE: dict[str, Callable[[BuildRecord], Any] | None] = {
    "serial": lambda record: record.build.serial,
    "email": lambda record: record.build.email,
    "outcome": lambda record: record.outcome,
    "sandbox": lambda record: record.build.sandbox,
    "attempt": lambda record: record.build.attempt,
    "account": lambda record: record.enrolled,
    "image": lambda record: str(record.image.path) if record.image else None,
    "image_format": lambda record: record.image.format if record.image else None,
    "image_sha256": lambda record: record.image_sha256,
    "base_sha256": lambda record: record.base_sha256,
    "proof": lambda record: record.proof,
    "device_conf": _device_conf,
    "flashed": lambda record: record.flashed is not None,
    "device": lambda record: record.flashed.device if record.flashed else None,
    "usb_instance": lambda record: record.flashed.usb_instance if record.flashed else None,
    "ecid": lambda record: record.flashed.ecid if record.flashed else None,
    "lane": None,  # a fleet adds these two
    "began": None,
    "ledger": lambda record: record.ledger.as_json() if record.ledger else None,
    "seconds": lambda record: round(record.seconds, 3),
    "log": lambda record: str(record.log) if record.log else None,
}
_OF_FAILURE: dict[str, Callable[[BuildRecord], Any]] = {
    "step": lambda record: record.step,
    "error": lambda record: record.error.message if record.error else None,
    "hint": lambda record: record.error.hint if record.error else None,
    "exit_code": lambda record: record.exit_code,
}
_ADDED = ("steps", "fused", "fuse_command", "fuse_device", "also", "written")

FLEET_FIELDS: tuple[str, ...] = (*_CORE, *_OF_FAILURE)
"""The fields of a device's record in a fleet's report, in their order."""

RECORD_FIELDS: tuple[str, ...] = (*FLEET_FIELDS, *_ADDED)
"""The core's fields of a record; plug-ins add others."""
