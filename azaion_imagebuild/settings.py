"""What a site can configure: every setting, with its default and its one-line help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Struct, field

ENV_PREFIX = "AZAION_IMAGEBUILD_"
"""Variables of this tool start with it; no program that it runs sees them."""

PLACEHOLDER_SIZE = 512
"""Bytes of a placeholder, and so of a stamped device.conf: one sector, or more if a site says so.
"""

LARGEST_DEVICE_CONF = 64 * 1024
"""Bytes; a longer device.conf is neither written nor read."""

PASSWORD_PATTERN = "[0-9a-f]{32}"
"""32 lower-case hexadecimal digits, as ``openssl rand -hex 16`` prints them (runbook)."""


class Option(Struct, frozen=True):
    """What the command line and the documentation say of one setting."""

    kind: str
    """Its converter's name (config/kinds.py)."""
    help: str
    env: str | None = None
    """Its variable's name without the prefix; None: SECTION_KEY."""
    choices: tuple[str, ...] = ()


METHODS = ("POST", "PUT", "PATCH")


class AdminApiSettings(Struct, frozen=True, kw_only=True):
    """[admin_api]"""

    url: Annotated[str | None, Option("text", "base URL of the admin API", env="API_URL")] = None
    role: Annotated[str, Option("text", "role of a new account")] = "CompanionPC"
    create_method: Annotated[
        str, Option("choice", "method that creates an account", choices=METHODS)
    ] = "POST"
    create_path: Annotated[
        str, Option("text", "path that creates an account; {email} is filled in")
    ] = "/users"
    create_fields: Annotated[
        list[str], Option("list", "fields of its body: email, password, role")
    ] = field(default_factory=lambda: ["email", "password", "role"])
    created_statuses: Annotated[list[int], Option("statuses", "statuses that mean: created")] = (
        field(default_factory=lambda: [200, 201])
    )
    exists_statuses: Annotated[
        list[int], Option("statuses", "statuses that mean: the account exists")
    ] = field(default_factory=lambda: [409])
    upsert: Annotated[
        bool,
        Option(
            "yesno", "that request also sets the password of an existing account; no second request"
        ),
    ] = False
    update_method: Annotated[
        str, Option("choice", "method that sets a password", choices=METHODS)
    ] = "PATCH"
    update_path: Annotated[
        str, Option("text", "path that sets a password; {email} and {id} are filled in")
    ] = "/users/password"
    update_fields: Annotated[
        list[str], Option("list", "fields of its body: email, password, role")
    ] = field(default_factory=lambda: ["email", "password"])
    updated_statuses: Annotated[
        list[int],
        Option("statuses", "statuses (of create_path, with upsert) that mean: updated"),
    ] = field(default_factory=lambda: [200, 204])
    lookup_path: Annotated[
        str | None,
        Option("text", "path to GET an existing account, for its {id}; {email} is filled in"),
    ] = None
    id_field: Annotated[
        str, Option("text", "JSON field of {id} in the answer that created the account")
    ] = "id"
    existing_id_field: Annotated[
        str | None,
        Option(
            "text",
            "the same in the answer to lookup_path (without one: in the answer that says that the"
            " account exists); default: id_field",
        ),
    ] = None
    email_field: Annotated[str, Option("text", "JSON field of the e-mail address")] = "email"
    password_field: Annotated[str, Option("text", "JSON field of the password")] = "password"
    role_field: Annotated[str, Option("text", "JSON field of the role")] = "role"
    token_file: Annotated[Path | None, Option("path", "file that holds the API token")] = None
    token_env: Annotated[str | None, Option("text", "variable that holds the API token")] = None
    token_header: Annotated[str, Option("text", "header that carries the token")] = "Authorization"
    token_scheme: Annotated[str, Option("text or empty", "word before the token; may be empty")] = (
        "Bearer"
    )
    client_cert: Annotated[Path | None, Option("path", "client certificate for mTLS (PEM)")] = None
    client_key: Annotated[Path | None, Option("path", "key of the client certificate (PEM)")] = None
    ca_file: Annotated[
        Path | None, Option("path", "certificates to trust instead of the host's")
    ] = None
    headers: Annotated[Mapping[str, str], Option("table", "further headers; no secrets here")] = {}
    connect_timeout: Annotated[float, Option("duration", "seconds to wait for a connection")] = 5.0
    read_timeout: Annotated[float, Option("duration", "seconds to wait for an answer")] = 30.0
    retries: Annotated[int, Option("whole", "retries after a failed request")] = 4


class BspSettings(Struct, frozen=True, kw_only=True):
    """[bsp]"""

    dir: Annotated[Path | None, Option("path", "the Linux_for_Tegra folder", env="BSP")] = None
    rootfs_dir: Annotated[
        Path | None,
        Option(
            "path", "root filesystem to stage into; default: rootfs/ of the BSP", env="ROOTFS_DIR"
        ),
    ] = None
    board: Annotated[str, Option("text", "board: the name of its .conf", env="BOARD")] = (
        "jetson-orin-nano-devkit"
    )
    rootdev: Annotated[str, Option("text", "root device, as in flash.sh", env="ROOTDEV")] = (
        "internal"
    )
    method: Annotated[
        str,
        Option(
            "choice",
            "flash: flash.sh alone; initrd: l4t_initrd_flash.sh, as Orin Nano with NVMe needs it",
            choices=("flash", "initrd"),
        ),
    ] = "flash"
    external_device: Annotated[
        str | None, Option("text", "initrd only: device that carries the rootfs, e.g. nvme0n1p1")
    ] = None
    partition_xml: Annotated[
        str | None,
        Option("text", "initrd only: partition layout of the external device, from the BSP"),
    ] = None
    network: Annotated[
        str, Option("text or empty", "initrd only: network that the device is flashed over")
    ] = "usb0"
    massflash: Annotated[
        int,
        Option(
            "whole",
            "initrd only: devices flashed at once (up to 10); a base is packed for this many",
        ),
    ] = 1
    usb_instance: Annotated[
        str | None,
        Option("text", "USB instance of the device to flash, e.g. 1-3", env="USB_INSTANCE"),
    ] = None
    device_wait: Annotated[
        float, Option("number", "seconds that a fleet waits for the next device at a USB instance")
    ] = 600.0
    sysfs_usb: Annotated[Path, Option("path", "where the kernel shows USB devices")] = Path(
        "/sys/bus/usb/devices"
    )
    size: Annotated[str | None, Option("size", "size of the APP partition, e.g. 14GiB")] = None
    args: Annotated[list[str], Option("list", "further arguments for flash.sh, before BOARD")] = []
    required_files: Annotated[
        list[str],
        Option(
            "list",
            "files that the BSP must have: flash.sh skips missing firmware silently",
        ),
    ] = []
    success: Annotated[
        str | None,
        Option(
            "words",
            "words that this BSP's script prints only when it has flashed the device, where this"
            " tool cannot tell",
        ),
    ] = None
    environment: Annotated[
        Mapping[str, str],
        Option("table", "variables for NVIDIA's scripts, e.g. BOARDID, FAB, BOARDSKU"),
    ] = {}


class DeviceConfSettings(Struct, frozen=True, kw_only=True):
    """[device_conf]"""

    owner: Annotated[
        str, Option("text", "account in the rootfs (or a number) that runs the Loader")
    ] = "azaion"
    group: Annotated[str | None, Option("text", "group; default: the owner's own")] = None
    template: Annotated[Path | None, Option("path", "template of device.conf")] = None
    password_pattern: Annotated[
        str,
        Option(
            "pattern",
            "regular expression for a whole password, checked by verify",
        ),
    ] = PASSWORD_PATTERN


class EscrowSettings(Struct, frozen=True, kw_only=True):
    """[escrow]"""

    recipients: Annotated[
        list[str],
        Option(
            "recipients",
            "public keys (age1… or SSH); the owner of each can read every device's credentials;"
            " none: nothing is kept",
        ),
    ] = []
    dir: Annotated[
        Path | None,
        Option(
            "path",
            "folder of the encrypted files, SERIAL/ATTEMPT.age; default: escrow/ in state_dir",
        ),
    ] = None


class SerialSettings(Struct, frozen=True, kw_only=True):
    """[serial]"""

    pattern: Annotated[
        str | None, Option("pattern", "regular expression for this site's serials")
    ] = None


class HooksSettings(Struct, frozen=True, kw_only=True):
    """[hooks]"""

    dirs: Annotated[list[Path], Option("paths", "folders with a site's own plug-ins")] = []
    disable: Annotated[list[str], Option("list", "names of plug-ins to leave out")] = []


class BuildSettings(Struct, frozen=True, kw_only=True):
    """[build]"""

    flash: Annotated[bool, Option("yesno", "flash the device after the proof", env="FLASH")] = True
    fuse: Annotated[
        bool,
        Option(
            "asked",
            "run [fuse] command first; a file can only say no, only --fuse (FUSE=1) says yes",
            env="FUSE",
        ),
    ] = False
    lock_wait: Annotated[
        float, Option("number", "seconds to wait for another build of the same tree")
    ] = 600.0
    script_timeout: Annotated[
        float, Option("duration", "seconds that one NVIDIA script may take")
    ] = 7200.0
    state_dir: Annotated[
        Path | None, Option("path", "folder of logs, ledger, reports and sandbox", env="STATE_DIR")
    ] = None


class FuseSettings(Struct, frozen=True, kw_only=True):
    """[fuse]"""

    command: Annotated[
        list[str],
        Option(
            "list",
            "the site's own fuse command, run in the BSP tree without a shell, before provisioning;"
            " {serial} and {usb_instance} are filled in; name key files here, never a key",
        ),
    ] = []
    success: Annotated[
        str, Option("words", "words that it must print, since its exit code alone proves nothing")
    ] = "*** done."
    timeout: Annotated[float, Option("duration", "seconds that it may take")] = 1800.0


class ImageSettings(Struct, frozen=True, kw_only=True):
    """[image]"""

    inject: Annotated[
        str,
        Option(
            "choice",
            "rootfs: build each device's image; stamp: build a base once, stamp"
            " each device into it",
            choices=("rootfs", "stamp"),
            env="INJECT",
        ),
    ] = "rootfs"
    rebuild: Annotated[
        bool, Option("yesno", "stamp only: rebuild the base even if nothing has changed")
    ] = False
    staging: Annotated[
        str,
        Option(
            "choice",
            "rootfs: stage into the rootfs itself; overlay: into a tmpfs over it (root)",
            choices=("rootfs", "overlay"),
        ),
    ] = "rootfs"
    placeholder_size: Annotated[
        int,
        Option(
            "room",
            "bytes reserved for a stamped device.conf; increase it for long credentials",
        ),
    ] = PLACEHOLDER_SIZE
    keep: Annotated[
        bool, Option("yesno", "keep the image (0600) after flashing it", env="KEEP_IMAGE")
    ] = False


class SmokeSettings(Struct, frozen=True, kw_only=True):
    """[smoke]"""

    loader_url: Annotated[
        str | None,
        Option(
            "text",
            "Loader of the flashed device; {serial} and {usb_instance} are filled"
            " in; unset: no test",
        ),
    ] = None
    wait: Annotated[
        float, Option("number", "seconds to wait for a flashed device to boot and be healthy")
    ] = 300.0
    ca_file: Annotated[
        Path | None, Option("path", "certificates to trust, e.g. the devices' self-signed one")
    ] = None
    certificate_name: Annotated[
        str | None,
        Option("text", "name in the Loader's certificate, if it is not the host of loader_url"),
    ] = None
    status_words: Annotated[
        list[str],
        Option("list", "values of the field status in a healthy Loader's answers"),
    ] = field(
        default_factory=lambda: [
            "ok",
            "healthy",
            "up",
            "pass",
            "ready",
            "running",
            "alive",
            "success",
        ]
    )


class LedgerSettings(Struct, frozen=True, kw_only=True):
    """[ledger]"""

    database: Annotated[
        str | None,
        Option(
            "text",
            "URL of its database, sqlite:///FILE or postgresql://…; default: a file in state_dir",
            env="DATABASE",
        ),
    ] = None
    reprovision: Annotated[
        str,
        Option(
            "choice",
            "a serial that was flashed before: allow, confirm (--yes) or refuse a new password",
            choices=("allow", "confirm", "refuse"),
        ),
    ] = "allow"
    confirmed: Annotated[bool, Option("yesno", "yes to reprovision = confirm")] = False
    station: Annotated[str | None, Option("text", "name of this station", env="STATION")] = None
    operator: Annotated[
        str | None, Option("text", "who builds; default: the user, before sudo", env="OPERATOR")
    ] = None


class StationSettings(Struct, frozen=True, kw_only=True):
    """[station]"""

    dead_after: Annotated[
        float, Option("duration", "seconds of silence after which other stations take its devices")
    ] = 60.0
    retries: Annotated[
        int,
        Option("whole", "retries of a device that the admin API rejected or did not answer"),
    ] = 3
    retry_wait: Annotated[
        float,
        Option("number", "seconds before the first retry; each further one waits twice as long"),
    ] = 10.0
    keep: Annotated[
        int, Option("whole", "hours for which station status shows an unfinished device")
    ] = 168
    page_socket: Annotated[
        Path | None,
        Option("path", "socket of the page; default: page/page.sock in state_dir"),
    ] = None
    page_group: Annotated[
        str | None,
        Option("text", "group whose users may serve the page; default: only this user"),
    ] = None


class LogSettings(Struct, frozen=True, kw_only=True):
    """[log]"""

    format: Annotated[
        str,
        Option(
            "choice",
            "format of stderr and of each attempt's log file: text, or a JSON object per line",
            choices=("text", "json"),
            env="LOG_FORMAT",
        ),
    ] = "text"
    otlp_endpoint: Annotated[
        str | None,
        Option(
            "endpoint",
            "base URL of an OpenTelemetry collector (OTLP over HTTP) for a trace of each attempt",
            env="OTLP_ENDPOINT",
        ),
    ] = None


class Settings(Struct, frozen=True, kw_only=True):
    """Every setting, by section of imagebuild.toml."""

    admin_api: AdminApiSettings = AdminApiSettings()
    bsp: BspSettings = BspSettings()
    device_conf: DeviceConfSettings = DeviceConfSettings()
    escrow: EscrowSettings = EscrowSettings()
    serial: SerialSettings = SerialSettings()
    hooks: HooksSettings = HooksSettings()
    build: BuildSettings = BuildSettings()
    fuse: FuseSettings = FuseSettings()
    image: ImageSettings = ImageSettings()
    smoke: SmokeSettings = SmokeSettings()
    ledger: LedgerSettings = LedgerSettings()
    station: StationSettings = StationSettings()
    log: LogSettings = LogSettings()
