"""What a site can configure: every setting, with its default and its one-line help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from .identity.placeholder import SIZE
from .identity.serial import PASSWORD_FORMAT
from .value import frozen

ENV_PREFIX = "AZAION_IMAGEBUILD_"
"""Variables of this tool start with it; no program that it runs sees them."""


def option(
    default: Any, help: str, *, kind: str, env: str | None = None, choices: tuple[str, ...] = ()
) -> Any:
    """Declare one setting; ``env`` is its variable's name where that is not SECTION_KEY."""
    meta = {"kind": kind, "help": help, "env": env, "choices": choices}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: default, metadata=meta)
    return field(default=default, metadata=meta)


METHODS = ("POST", "PUT", "PATCH")


@frozen
class AdminApiSettings:
    """[admin_api]"""

    url: str | None = option(None, "base URL of the admin API", kind="text", env="API_URL")
    role: str = option("CompanionPC", "role of a new account", kind="text")
    create_method: str = option(
        "POST", "method that creates an account", kind="choice", choices=METHODS
    )
    create_path: str = option(
        "/users", "path that creates an account; {email} is filled in", kind="text"
    )
    create_fields: list[str] = option(
        ["email", "password", "role"], "what its body holds: email, password, role", kind="list"
    )
    created_statuses: list[int] = option(
        [200, 201], "its answers that mean: created", kind="statuses"
    )
    exists_statuses: list[int] = option(
        [409], "its answers that mean: the account exists", kind="statuses"
    )
    upsert: bool = option(
        False,
        "that request sets the password of an account that exists, too: no second one",
        kind="yesno",
    )
    update_method: str = option(
        "PATCH", "method that sets a password", kind="choice", choices=METHODS
    )
    update_path: str = option(
        "/users/password", "path that sets a password; {email} and {id} are filled in", kind="text"
    )
    update_fields: list[str] = option(
        ["email", "password"], "what its body holds: email, password, role", kind="list"
    )
    updated_statuses: list[int] = option(
        [200, 204], "its answers (of create_path, with upsert) that mean: updated", kind="statuses"
    )
    lookup_path: str | None = option(
        None, "path to GET an account that exists, for its {id}; {email} is filled in", kind="text"
    )
    id_field: str = option("id", "JSON field of {id} in the answer that created it", kind="text")
    existing_id_field: str | None = option(
        None,
        "the same, of lookup_path's answer (without it: of the answer that says that the account"
        " exists); default: id_field",
        kind="text",
    )
    email_field: str = option("email", "JSON field of the e-mail address", kind="text")
    password_field: str = option("password", "JSON field of the password", kind="text")
    role_field: str = option("role", "JSON field of the role", kind="text")
    token_file: Path | None = option(None, "file that holds the API token", kind="path")
    token_env: str | None = option(None, "variable that holds the API token", kind="text")
    token_header: str = option("Authorization", "header that carries the token", kind="text")
    token_scheme: str = option(
        "Bearer", "word before the token; may be empty", kind="text or empty"
    )
    client_cert: Path | None = option(None, "client certificate for mTLS (PEM)", kind="path")
    client_key: Path | None = option(None, "key of the client certificate (PEM)", kind="path")
    ca_file: Path | None = option(None, "certificates to trust instead of the host's", kind="path")
    headers: Mapping[str, str] = option({}, "further headers; no secrets here", kind="table")
    connect_timeout: float = option(5.0, "seconds to wait for a connection", kind="duration")
    read_timeout: float = option(30.0, "seconds to wait for an answer", kind="duration")
    retries: int = option(4, "further tries after a failed one", kind="whole")


@frozen
class BspSettings:
    """[bsp]"""

    dir: Path | None = option(None, "the Linux_for_Tegra folder", kind="path", env="BSP")
    rootfs_dir: Path | None = option(
        None,
        "root filesystem to stage into; default: rootfs/ of the BSP",
        kind="path",
        env="ROOTFS_DIR",
    )
    board: str = option(
        "jetson-orin-nano-devkit", "board: the name of its .conf", kind="text", env="BOARD"
    )
    rootdev: str = option(
        "internal", "root device, as flash.sh takes it", kind="text", env="ROOTDEV"
    )
    method: str = option(
        "flash",
        "flash: flash.sh alone; initrd: l4t_initrd_flash.sh, as Orin Nano with NVMe needs it",
        kind="choice",
        choices=("flash", "initrd"),
    )
    external_device: str | None = option(
        None, "initrd only: device that carries the rootfs, e.g. nvme0n1p1", kind="text"
    )
    partition_xml: str | None = option(
        None, "initrd only: partition layout of the external device, from the BSP", kind="text"
    )
    network: str = option(
        "usb0", "initrd only: network that the device is flashed over", kind="text or empty"
    )
    massflash: int = option(
        1,
        "initrd only: devices that are flashed at once (up to 10); a base is packed for so many",
        kind="whole",
    )
    usb_instance: str | None = option(
        None, "USB instance of the device to flash, e.g. 1-3", kind="text", env="USB_INSTANCE"
    )
    device_wait: float = option(
        600.0, "seconds that a fleet waits for the next device at a USB instance", kind="number"
    )
    sysfs_usb: Path = option(
        Path("/sys/bus/usb/devices"), "where the kernel shows USB devices", kind="path"
    )
    size: str | None = option(None, "size of the APP partition, e.g. 14GiB", kind="size")
    args: list[str] = option([], "further arguments for flash.sh, before BOARD", kind="list")
    required_files: list[str] = option(
        [],
        "files of the BSP that must not be missing: flash.sh drops absent firmware silently",
        kind="list",
    )
    environment: Mapping[str, str] = option(
        {}, "variables for NVIDIA's scripts, e.g. BOARDID, FAB, BOARDSKU", kind="table"
    )


@frozen
class DeviceConfSettings:
    """[device_conf]"""

    owner: str = option(
        "azaion", "account in the rootfs (or a number) that runs the Loader", kind="text"
    )
    group: str | None = option(None, "group; default: the owner's own", kind="text")
    template: Path | None = option(None, "template of device.conf", kind="path")
    password_pattern: str = option(
        PASSWORD_FORMAT.pattern,
        "regular expression of a whole password, for verify, which knows no more of it",
        kind="pattern",
    )


@frozen
class EscrowSettings:
    """[escrow]"""

    recipients: list[str] = option(
        [],
        "public keys (age1… or an SSH one), each of which can read every device's credentials;"
        " none: nothing is kept",
        kind="recipients",
    )
    dir: Path | None = option(
        None,
        "folder of the encrypted files, SERIAL/ATTEMPT.age; default: escrow/ in state_dir",
        kind="path",
    )


@frozen
class SerialSettings:
    """[serial]"""

    pattern: str | None = option(None, "regular expression of this site's serials", kind="pattern")


@frozen
class HooksSettings:
    """[hooks]"""

    dirs: list[Path] = option([], "folders with a site's own plug-ins", kind="paths")
    disable: list[str] = option([], "names of plug-ins to leave out", kind="list")


@frozen
class BuildSettings:
    """[build]"""

    flash: bool = option(True, "flash the device after the proof", kind="yesno", env="FLASH")
    fuse: bool = option(
        False,
        "run [fuse] command first; a file can only say no: it is asked for by --fuse (FUSE=1)",
        kind="asked",
        env="FUSE",
    )
    lock_wait: float = option(600.0, "seconds to wait for another build of the tree", kind="number")
    script_timeout: float = option(
        7200.0, "seconds that one NVIDIA script may take", kind="duration"
    )
    state_dir: Path | None = option(
        None, "folder of logs and of the sandbox", kind="path", env="STATE_DIR"
    )


@frozen
class FuseSettings:
    """[fuse]"""

    command: list[str] = option(
        [],
        "the site's own fuse command, run in the BSP tree without a shell, before provisioning;"
        " {serial} and {usb_instance} are filled in; name key files here, never a key",
        kind="list",
    )
    success: str = option(
        "*** done.", "words that it must print: its exit code alone is no evidence", kind="text"
    )
    timeout: float = option(1800.0, "seconds that it may take", kind="duration")


@frozen
class ImageSettings:
    """[image]"""

    inject: str = option(
        "rootfs",
        "rootfs: build each device's image; stamp: build a base once, stamp each device into it",
        kind="choice",
        choices=("rootfs", "stamp"),
        env="INJECT",
    )
    rebuild: bool = option(
        False, "stamp only: build the base anew although nothing has changed", kind="yesno"
    )
    staging: str = option(
        "rootfs",
        "rootfs: stage into the rootfs itself; overlay: into a tmpfs over it (root)",
        kind="choice",
        choices=("rootfs", "overlay"),
    )
    placeholder_size: int = option(
        SIZE,
        "bytes for a stamped device.conf; more than 512 where the API issues long credentials",
        kind="room",
    )
    keep: bool = option(
        False, "keep the image (0600) after flashing it", kind="yesno", env="KEEP_IMAGE"
    )


@frozen
class SmokeSettings:
    """[smoke]"""

    loader_url: str | None = option(
        None,
        "Loader of the flashed device; {serial} and {usb_instance} are filled in; unset: no test",
        kind="text",
    )
    wait: float = option(
        300.0, "seconds to wait for a flashed device to boot and be healthy", kind="number"
    )
    ca_file: Path | None = option(
        None, "certificates to trust, e.g. the devices' self-signed one", kind="path"
    )
    certificate_name: str | None = option(
        None, "name in the Loader's certificate, where it is not loader_url's host", kind="text"
    )
    status_words: list[str] = option(
        ["ok", "healthy", "up", "pass", "ready", "running", "alive", "success"],
        "what the field status of the Loader's answers says when all is well",
        kind="list",
    )


@frozen
class LedgerSettings:
    """[ledger]"""

    database: str | None = option(
        None,
        "URL of its database, sqlite:///FILE or postgresql://…; default: a file in state_dir",
        kind="text",
        env="DATABASE",
    )
    reprovision: str = option(
        "allow",
        "a serial that was flashed before: allow, confirm (--yes) or refuse a new password",
        kind="choice",
        choices=("allow", "confirm", "refuse"),
    )
    confirmed: bool = option(False, "yes to reprovision = confirm", kind="yesno")
    station: str | None = option(None, "name of this station", kind="text", env="STATION")
    operator: str | None = option(
        None, "who builds; default: the user, before sudo", kind="text", env="OPERATOR"
    )


@frozen
class StationSettings:
    """[station]"""

    dead_after: float = option(
        60.0, "seconds of silence after which other stations take its devices", kind="duration"
    )
    retries: int = option(
        3, "further tries of a device that the admin API refused or did not answer", kind="whole"
    )
    retry_wait: float = option(
        10.0,
        "seconds before the first of them; each further one waits twice as long",
        kind="number",
    )
    keep: int = option(
        168, "hours for which station status shows a device that is not done", kind="whole"
    )


@frozen
class LogSettings:
    """[log]"""

    format: str = option(
        "text",
        "what stderr and an attempt's log file hold: text for people, or a JSON object a line",
        kind="choice",
        choices=("text", "json"),
        env="LOG_FORMAT",
    )
    otlp_endpoint: str | None = option(
        None,
        "base URL of an OpenTelemetry collector (OTLP over HTTP) that gets a trace of each attempt",
        kind="endpoint",
        env="OTLP_ENDPOINT",
    )


@frozen
class Settings:
    """Every setting, by section of imagebuild.toml."""

    admin_api: AdminApiSettings = field(default_factory=AdminApiSettings)
    bsp: BspSettings = field(default_factory=BspSettings)
    device_conf: DeviceConfSettings = field(default_factory=DeviceConfSettings)
    escrow: EscrowSettings = field(default_factory=EscrowSettings)
    serial: SerialSettings = field(default_factory=SerialSettings)
    hooks: HooksSettings = field(default_factory=HooksSettings)
    build: BuildSettings = field(default_factory=BuildSettings)
    fuse: FuseSettings = field(default_factory=FuseSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    smoke: SmokeSettings = field(default_factory=SmokeSettings)
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    station: StationSettings = field(default_factory=StationSettings)
    log: LogSettings = field(default_factory=LogSettings)
