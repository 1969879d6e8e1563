"""Stations behind PgBouncer: a transaction pooler keeps no state of a session."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from pooler import pooled
from postgres import Postgres
from stations import Factory, serials, until
from thorough import thorough
from world import TOOL, Run

from azaion_imagebuild.ledger.chain import check
from azaion_imagebuild.sandbox import Accounts
from azaion_imagebuild.stations.status import read_status


@thorough
@pytest.mark.parametrize(
    ("mode", "size"),
    [("transaction", 4), pytest.param("transaction", 2, marks=thorough),
     pytest.param("session", 20, marks=thorough)],
)  # fmt: skip
def test_stations_work_behind_a_pooler(
    run: Run, postgres: Postgres, api_url: str, base: Path, accounts: Accounts, mode: str, size: int
) -> None:
    postgres.empty()
    with pooled(postgres, mode, size) as url:
        factory = Factory(url=url, api_url=api_url, base=base).build()
        assert run("submit", "AZJN-0001..AZJN-0008", "--json").json["queued"] == serials(8)
        with factory.ledger, factory.station("S1") as one, factory.station("S2") as two:
            until(lambda: len(factory.attempts()) == 8 and factory.is_idle(), "eight devices")
            assert run("station", "status").code == 0
            told = [factory.stop(one), factory.stop(two)]
            assert sum(each["done"] for each in told) == 8
            assert factory.flashed() == dict.fromkeys(serials(8), 1)
            assert all(factory.opens_its_account(accounts, each) for each in serials(8))
            assert list(check(factory.ledger)) == []
            assert not read_status(factory.ledger)["stations"]
        log = factory.log("S1") + factory.log("S2")
        assert "Traceback" not in log
        assert "prepared statement" not in log
        assert run("ledger", "verify").code == 0


@thorough
def test_a_pooler_without_transactions_is_an_error_of_the_ledger(
    run: Run, postgres: Postgres, api_url: str, base: Path
) -> None:
    postgres.empty()
    with pooled(postgres, "statement", 4) as url:
        Factory(url=url, api_url=api_url, base=base).build()
        for argv in (("submit", "AZJN-0001"), ("station", "--name", "S1", "--image", str(base))):
            done = subprocess.run(
                [*TOOL, *argv, "--json"], capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 9, done.stderr
            assert json.loads(done.stdout)["exit_code"] == 9
            assert "Traceback" not in done.stderr
            assert "pool_mode = transaction" in done.stderr
