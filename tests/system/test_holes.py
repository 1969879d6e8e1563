from __future__ import annotations

from pathlib import Path

import pytest

from azaion_imagebuild.system.holes import data_ranges, next_data

BLOCK = 1 << 16


@pytest.mark.parametrize(
    "blocks", ["", "d", "-", "d-", "-d", "d-d", "-dd--d-"], ids=lambda blocks: blocks or "empty"
)
def test_only_data_is_named_and_all_of_it(tmp_path: Path, blocks: str) -> None:
    path = tmp_path / "sparse"
    with path.open("w+b") as stream:
        stream.truncate(len(blocks) * BLOCK)
        for number, block in enumerate(blocks):
            if block == "d":
                stream.seek(number * BLOCK)
                stream.write(b"d" * BLOCK)
        stream.flush()
        found = list(data_ranges(stream.fileno()))
        assert next_data(stream.fileno(), len(blocks) * BLOCK) is None
    named = ["-"] * len(blocks)
    for start, end in found:
        named[start // BLOCK : end // BLOCK] = "d" * ((end - start) // BLOCK)
    assert "".join(named) == blocks
