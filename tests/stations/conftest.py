"""What the tests of stations share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from azaion_imagebuild.cli.console import Console
from azaion_imagebuild.config.loading import load
from azaion_imagebuild.operations.image import build_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a placeholder, built once for all stations."""
    folder = tmp_path_factory.mktemp("base")
    flags = {("build", "state_dir"): str(folder / "state"), ("device_conf", "owner"): "azaion"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin:/sbin")  # e2fsprogs
        record = build_base(load(flags, {}, None), Console(None), folder / "base.img")
    assert record.error is None
    return folder / "base.img"
