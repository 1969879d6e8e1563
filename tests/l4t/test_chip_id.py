"""The chip's own number: from the scripts' output into record and ledger."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from thorough import one_of
from world import SERIAL, Run, replace_script

from azaion_imagebuild.l4t.chip_id import chip_id, read_chip_id

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NVIDIA's scripts need root")

ANSWER = "0x80012344705DF1172C0000000D020080"
ECID = "0x4705DF1172C0000000D020080"
OTHER = "0x80012344700000000C00000000000001"
INITRD = (
    '[bsp]\nmethod = "initrd"\nexternal_device = "nvme0n1p1"\n'
    'partition_xml = "tools/kernel_flash/flash_l4t_external.xml"\n'
)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (int(ANSWER, 16), ECID),
        ((1 << 128) - 1, "0x" + "F" * 25),
        (0x8001234 << 100, None),
        ((0x8001234 << 100) + 0xA, "0x" + "A".rjust(25, "0")),
    ],
)
def test_the_lower_100_bits_are_the_chips_own(answer: int, shown: str | None) -> None:
    assert chip_id(answer) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"[   0.1429 ] BR_CID: {ANSWER}\n", ECID),
        (f"BR_CID: {OTHER}\nmore\n[ 1 ] BR_CID: {ANSWER}\nBR_CID: 0x8001234{'0' * 25}\n", ECID),
        (f"BR_CID: {ANSWER.lower()}\r\n", ECID),
        ("BR_CID: 0x1234\nBR_CID:\nBR_CID: 0xZZ\n", None),
        (f"BR_CID: {ANSWER}0\nXBR_CID: {ANSWER}\n", None),
        ("", None),
    ],
)
def test_the_last_answer_in_the_log_counts(tmp_path: Path, text: str, shown: str | None) -> None:
    log = tmp_path / "flash.log"
    log.write_bytes(b"\xff\xfe\n" + text.encode())
    assert read_chip_id(log) == shown
    assert read_chip_id(tmp_path / "none.log") is None


@needs_root
@pytest.mark.parametrize("config", one_of(["", INITRD]))
@pytest.mark.parametrize("step", one_of(["--no-flash", "flash"]))
def test_the_chip_id_reaches_record_and_ledger(
    run: Run, bsp: Path, sysfs: Path, api_url: str, config: str, step: str
) -> None:
    (sysfs / "1-3/serial").write_text("0\n")
    name = INITRD_SH if config else "flash.sh"
    asks = "==" if step == "--no-flash" else "!="
    many = "seq 300"  # more lines than are kept of a script's output
    replace_script(
        bsp / name,
        f'[[ "$*" {asks} *--no-flash* ]] && {{ echo "[ 0.1 ] BR_CID: {ANSWER}"; {many}; }}\n'
        f'exec ./{name}.real "$@"\n',
    )
    Path("imagebuild.toml").write_text(config)
    ran = run("image", "--serial", SERIAL, "--bsp", bsp, "--api-url", api_url, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["ecid"] == ECID
    row = run("ledger", "show", SERIAL, "--json").json[-1]
    assert row["ecid"] == ECID, json.dumps(row)


INITRD_SH = "tools/kernel_flash/l4t_initrd_flash.sh"
