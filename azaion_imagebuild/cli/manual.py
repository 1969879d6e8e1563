"""What each command says of itself: its description and examples, for --help and the man page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from msgspec import Struct

ABOUT = (
    "Gives every NVIDIA Jetson an identity of its own during the image build, and proves it before"
    " flashing: creates the device's account at the admin API, puts /etc/azaion/device.conf into"
    " the root filesystem, has NVIDIA's scripts build the image, reads the finished image back, and"
    " flashes only what carries exactly this device's identity."
)


class Entry(Struct, frozen=True, kw_only=True):
    """What is said of one command."""

    usage: str
    """What is given to it, as a person would write it."""
    about: str
    examples: tuple[str, ...]
    """Command lines without the program's name."""


ENTRIES: dict[str, Entry] = {
    "image": Entry(
        usage="--serial SERIAL [options]",
        about="Builds, proves and flashes one device's image. With neither --bsp nor --api-url (nor"
        " their settings) it runs in the sandbox: an embedded admin API, BSP, device and Loader, to"
        " try it without any. The same command again gives the device a new password, and ends"
        " well.",
        examples=(
            "image --serial AZJN-0042",
            "image --serial AZJN-0042 --bsp /srv/l4t/Linux_for_Tegra --api-url"
            " https://admin.internal.example.com",
        ),
    ),
    "base": Entry(
        usage="[options]",
        about="Builds an image whose device.conf is a placeholder, which no Loader can log in with."
        " stamp and fleet put identities into it. No account is touched, and nothing is flashed.",
        examples=("base --out base.img",),
    ),
    "stamp": Entry(
        usage="IMAGE (--serial SERIAL | --clear) [options]",
        about="Puts a device's identity into a finished image, without mounting it: in place, or"
        " into a copy. The account is created or gets a new password, unless --device-conf gives"
        " the credentials. What was stamped is read back.",
        examples=(
            "stamp base.img --serial AZJN-0042 --out AZJN-0042.img",
            "stamp AZJN-0042.img --clear",
        ),
    ),
    "fleet": Entry(
        usage="SERIALS [options]",
        about="Takes a list of devices to its end: flashes each, or with --out writes an image for"
        " each. One failure stops no other device, and the same command again does what is left."
        " Ctrl-C once finishes what is running, twice stops it.",
        examples=(
            "fleet AZJN-0001..AZJN-1000 --plan",
            "fleet list.csv --out images",
        ),
    ),
    "doctor": Entry(
        usage="[options]",
        about="Looks whether this host, the BSP, the rootfs, the device in recovery mode and the"
        " admin API are ready for image, and says what to do where they are not. Changes nothing.",
        examples=("doctor", "doctor --api"),
    ),
    "provision": Entry(
        usage="--serial SERIAL --api-url URL --rootfs-dir DIR [options]",
        about="Creates the account, or gives it a new password, and writes device.conf into a"
        " rootfs, where it stays (the runbook's step 4).",
        examples=(
            "provision --serial AZJN-0042 --api-url https://admin.internal.example.com --rootfs-dir"
            " /srv/images/orin-nano/rootfs-staging",
        ),
    ),
    "verify": Entry(
        usage="TARGET --serial SERIAL [options]",
        about="Reads device.conf out of a rootfs folder or a finished image, without mounting it,"
        " and says how it differs from what this device must carry. Exits with 8 when it does.",
        examples=("verify AZJN-0042.img --serial AZJN-0042",),
    ),
    "smoke": Entry(
        usage="--loader-url URL (--image FILE | --rootfs-dir DIR | --device-conf FILE) [options]",
        about="Asks the Loader of a booted device for its health, then logs in with the device's"
        " own credentials, which are taken out of an image, a rootfs or a device.conf. Says what is"
        " wrong when that fails, and exits with 8.",
        examples=(
            "smoke --loader-url http://azjn-0042.local:8080 --image AZJN-0042.img --serial"
            " AZJN-0042 --wait 300",
        ),
    ),
    "rotate": Entry(
        usage="(--serial SERIAL | --all-older-than AGE) [options]",
        about="Gives a device's account a new password at the admin API, and writes it where it is"
        " asked for: into a rootfs, into a finished image, to a device.conf of its own. At least"
        " one of them is needed, since a password that is written nowhere locks the device out."
        " --all-older-than does so for every device of the ledger, into --out.",
        examples=(
            "rotate --serial AZJN-0042 --device-conf AZJN-0042.conf",
            "rotate --all-older-than 90d --out new-credentials",
        ),
    ),
    "hooks": Entry(
        usage="[options]",
        about="Lists the steps of a build, in their order, and the plug-ins that do them: a site's"
        " own come before the shipped ones.",
        examples=("hooks",),
    ),
    "submit": Entry(
        usage="SERIALS --database URL [options]",
        about="Puts a list of devices into the common queue in PostgreSQL, from which the stations"
        " take them. A device that is done, or waits already, is left out.",
        examples=(
            "submit AZJN-0001..AZJN-1000 --database postgresql://factory@db.internal.example.com"
            "/azaion",
        ),
    ),
    "station": Entry(
        usage="[COMMAND] ...",
        about="Makes devices from the common queue. An option in the place of COMMAND means run:"
        " station --name S1 is station run --name S1.",
        examples=("station status",),
    ),
    "station run": Entry(
        usage="--name NAME --database URL [options]",
        about="Takes devices from the queue and makes them, as fleet does, until Ctrl-C: what is"
        " running is then finished, and the rest goes back. Twice stops at once.",
        examples=("station run --name S1 --lanes 4 --out images",),
    ),
    "station status": Entry(
        usage="--database URL [options]",
        about="Shows the stations with the age of their last sign of life, their lanes, what waits,"
        " and the devices whose station is gone.",
        examples=("station status",),
    ),
    "station resolve": Entry(
        usage="SERIAL {done,failed,retired,fused,unfused} --reason REASON [options]",
        about="Writes down what became of a device whose station died while flashing it; it is"
        " never repeated by itself.",
        examples=('station resolve AZJN-0042 failed --reason "looked at it: no image"',),
    ),
    "station reassign": Entry(
        usage="(NAME | --dead) [options]",
        about="Gives the devices of a station that is gone to the others. The station cannot end"
        " them any more, should it come back.",
        examples=("station reassign S1", "station reassign --dead"),
    ),
    "ledger": Entry(
        usage="COMMAND ...",
        about="Reads the ledger: which identity went into which device, when, by whom, from which"
        " image. It holds fingerprints of the passwords, never a password.",
        examples=("ledger list",),
    ),
    "ledger list": Entry(
        usage="[options]",
        about="Prints one line for each attempt, the oldest first.",
        examples=("ledger list --serial AZJN-0042",),
    ),
    "ledger show": Entry(
        usage="SERIAL [options]",
        about="Prints every row of one device, and all that the last one holds.",
        examples=("ledger show AZJN-0042",),
    ),
    "ledger verify": Entry(
        usage="[--anchor ROW:HASH]... [options]",
        about="Follows the chain of hashes through every row, and names those that were edited,"
        " removed, inserted or moved. --anchor holds a row against a copy that was kept elsewhere."
        " Exits with 9 when the chain is broken.",
        examples=("ledger verify",),
    ),
    "ledger export": Entry(
        usage="[options]",
        about="Writes every row as a JSON array or as CSV, for a backup or a spreadsheet.",
        examples=("ledger export --csv --out ledger.csv",),
    ),
    "ledger resolve": Entry(
        usage="SERIAL {done,failed,retired,fused,unfused} --reason REASON [options]",
        about="Writes down what an operator knows of a device: that an attempt which never ended"
        " has succeeded or failed, that the device is out of use, so that its account is free"
        " again, or what the fuses are of a device whose fuse command nobody saw end.",
        examples=('ledger resolve AZJN-0042 retired --reason "scrapped: water in the housing"',),
    ),
    "sandbox": Entry(
        usage="[{show,accounts,reset}] [options]",
        about="Shows where the sandbox's parts are, or the accounts of its admin API, or removes it"
        " all.",
        examples=("sandbox", "sandbox accounts"),
    ),
    "completion": Entry(
        usage="{bash,zsh,fish}",
        about="Prints what a shell needs to complete this command by the Tab key. In bash, have"
        ' ~/.bashrc say: eval "$(azaion-imagebuild completion bash)". For zsh, the file lies in a'
        " folder of $fpath.",
        examples=(
            "completion zsh > ~/.zfunc/_azaion-imagebuild",
            "completion fish > ~/.config/fish/completions/azaion-imagebuild.fish",
        ),
    ),
}
"""Command → what is said of it, in the order of the manual."""


class Help(argparse.HelpFormatter):
    """argparse's layout; examples keep their lines, and the longest command its place."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # they are indented once more
            self._action_max_length += self._indent_increment

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        lines = text.splitlines()
        return "\n".join(
            line if line.startswith("  ") else fill(line, width, indent) for line in lines
        )


def describe(parser: argparse.ArgumentParser) -> None:
    """Give the parser's commands, and theirs, what is said of them here."""
    parser.formatter_class = Help
    for name, command in commands(parser):
        command.formatter_class = Help
        if entry := ENTRIES.get(name):
            lines = [f"  {parser.prog} {example}" for example in entry.examples]
            command.usage = f"%(prog)s {entry.usage}"
            command.description = entry.about
            command.epilog = "\n".join(["examples:" if lines[1:] else "example:", *lines])


def commands(
    parser: argparse.ArgumentParser, within: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield (name, parser) of every command, and of what is a command of a command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f"{within}{name}", command
                yield from commands(command, f"{within}{name} ")
