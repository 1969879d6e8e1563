"""The ledger: one row after the other, chained; what it finds out, and what it refuses."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from ledgers import died, entry, flashed, ten
from msgspec import structs
from postgres import Postgres
from thorough import one_of, thorough
from world import EMAIL, SERIAL, Ran, Run

from azaion_imagebuild.errors import FlashError, LedgerError, PreflightError
from azaion_imagebuild.ledger import Entry, Ledger, history, ledger_of, schema
from azaion_imagebuild.ledger.chain import check
from azaion_imagebuild.ledger.engine import FILE
from azaion_imagebuild.model import Receipt
from azaion_imagebuild.sandbox import Sandbox
from azaion_imagebuild.secret import Secret
from azaion_imagebuild.settings import LedgerSettings

ALLOW = LedgerSettings()
BOTH = ["sqlite", "postgresql"]
on_both = pytest.mark.parametrize("ledger", BOTH, indirect=True)


@pytest.fixture(params=one_of(BOTH))
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger, once in a file and once in a real PostgreSQL."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / FILE}"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        postgres.empty()
        url = postgres.url
    with Ledger(url) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / FILE


def outcomes(ledger: Ledger) -> list[tuple[str, str, str]]:
    return [(row.serial, row.step, row.outcome) for _, row, _ in ledger.rows()]


@on_both
def test_rows_are_numbered_and_chained(ledger: Ledger) -> None:
    first, second = ledger.write(entry()), ledger.write(flashed(seconds=1.25))
    assert (first.row, second.row) == (1, 2)
    assert ledger.head() == second
    assert list(check(ledger)) == []
    assert list(ledger.attempts()) == [row for _, row, _ in ledger.rows()][1:]


@on_both
def test_many_threads_write_one_chain(ledger: Ledger) -> None:
    def write(number: int) -> None:
        for count in range(10):
            ledger.write(entry(f"AZJN-{number}-{count}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.head().row == 80
    assert list(check(ledger)) == []
    assert len({row.serial for _, row, _ in ledger.rows()}) == 80


WRITER = """
import sys
sys.path[:0] = sys.argv[2].split(":")
from test_ledger import Ledger, entry
with Ledger(sys.argv[1]) as ledger:
    for count in range(10):
        ledger.write(entry(f"AZJN-{sys.argv[3]}-{count}"))
"""


def test_several_processes_make_the_tables_and_write_one_chain(ledger: Ledger) -> None:
    here = f"{Path(__file__).parent}:{Path(__file__).parents[1] / 'support'}"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, ledger.url, here, str(number)])
        for number in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert ledger.head().row == 30
    assert list(check(ledger)) == []


def test_two_serials_of_one_account_are_refused(ledger: Ledger) -> None:
    ledger.write(flashed())
    with pytest.raises(PreflightError, match="belongs to AZJN-0042") as refused:
        ledger.begin(entry("XYZ-0042"), ALLOW)
    assert "ledger resolve" in refused.value.hint
    assert ledger.head().row == 1


@on_both
def test_of_two_serials_at_the_same_time_one_is_refused(ledger: Ledger) -> None:
    ledger.begin(entry(), ALLOW)
    with pytest.raises(PreflightError, match="belongs to AZJN-0042"):
        ledger.begin(entry("XYZ-0042"), ALLOW)


def test_an_attempt_that_never_reached_the_account_holds_nothing(ledger: Ledger) -> None:
    ledger.write(entry("XYZ-0042", outcome="failed"))
    ledger.write(died(serial="XYZ-0042", attempt="another"))
    ledger.begin(entry(), ALLOW)


def test_a_retired_serial_gives_its_account_back(ledger: Ledger) -> None:
    ledger.write(flashed())
    ledger.write(entry(step="resolve", outcome="retired", account="created"))
    ledger.begin(entry("XYZ-0042"), ALLOW)


def test_the_sandbox_and_the_factory_do_not_meet(ledger: Ledger) -> None:
    ledger.write(flashed(sandbox=True))
    ledger.begin(entry("XYZ-0042"), ALLOW)


def test_a_serial_that_is_being_built_is_refused(ledger: Ledger) -> None:
    ledger.begin(entry(), ALLOW)
    with pytest.raises(PreflightError, match=f"has been building since .*process {os.getpid()}"):
        ledger.begin(entry(attempt="another"), ALLOW)


def test_an_attempt_of_another_machine_is_believed_to_be_alive(ledger: Ledger) -> None:
    ledger.begin(entry(host="station-7", process="boot 1 2"), ALLOW)
    with pytest.raises(PreflightError, match="station-7"):
        ledger.begin(entry(attempt="another"), ALLOW)


def test_what_was_killed_is_ended_by_the_next_attempt(ledger: Ledger) -> None:
    ledger.write(died(attempt="first"))
    ledger.begin(entry(attempt="second"), ALLOW)
    ledger.write(died(attempt="second", step="flash"))
    ledger.begin(entry(attempt="third"), ALLOW)
    assert [(row.attempt, row.outcome) for _, row, _ in ledger.rows()] == [
        ("first", "started"),
        ("first", "failed"),
        ("second", "started"),
        ("second", "started"),
        ("second", "unknown"),
        ("third", "started"),
    ]


def test_unknown_is_unknown_until_somebody_knows(ledger: Ledger) -> None:
    def unknown() -> bool:
        return ledger.standings({SERIAL: EMAIL}, sandbox=False)[SERIAL].unknown

    ledger.write(died(step="flash"))
    assert unknown()
    ledger.begin(entry(attempt="second"), ALLOW)
    ledger.write(entry(attempt="second", outcome="failed", exit_code=4))
    assert unknown()  # the API was away: that says nothing of the device
    ledger.write(entry(attempt="second", step="resolve", outcome="failed"))
    assert not unknown()


def findings(ledger: Ledger, policy: str, *, confirmed: bool = False) -> list[tuple[str, str]]:
    known = ledger.standings({SERIAL: EMAIL}, sandbox=False)[SERIAL]
    return [(each.severity, each.hint) for each in known.findings(policy, confirmed=confirmed)]


def test_a_flashed_serial_is_allowed_confirmed_or_refused(ledger: Ledger) -> None:
    assert findings(ledger, "refuse") == []
    ledger.write(flashed())
    ledger.write(entry(attempt="second", outcome="failed"))  # it changes nothing of the device
    assert [severity for severity, _ in findings(ledger, "allow")] == ["warning"]
    assert findings(ledger, "confirm") == [("error", "to build it again, add --yes")]
    assert [kind for kind, _ in findings(ledger, "confirm", confirmed=True)] == ["warning"]
    assert [kind for kind, _ in findings(ledger, "refuse", confirmed=True)] == ["error"]
    with pytest.raises(PreflightError, match="refuse"):
        ledger.begin(entry(attempt="third"), LedgerSettings(reprovision="refuse"))


def test_a_serial_is_fused_once_whoever_asks_at_the_same_time(ledger: Ledger) -> None:
    ledger.begin(entry(step="fuse"), ALLOW)
    with pytest.raises(PreflightError, match="has been building since"):
        ledger.begin(entry(attempt="second", step="fuse"), ALLOW)
    ledger.write(entry(step="fuse", outcome="done"))
    with pytest.raises(PreflightError, match="was just fused by another station"):
        ledger.begin(entry(attempt="second", step="fuse"), ALLOW)
    ledger.begin(entry(), ALLOW)  # the first one goes on
    with pytest.raises(PreflightError, match="has been building since"):
        ledger.begin(entry(attempt="second"), ALLOW)


def test_a_credential_is_as_old_as_the_first_row_that_speaks_of_it(ledger: Ledger) -> None:
    def given(serial: str, at: str, credential: str | None, **changes: Any) -> None:
        account = "updated" if credential else None
        ledger.write(entry(serial, at=at, credential=credential, account=account, **changes))

    given("AZJN-1", "2026-03", "a")
    given("AZJN-2", "2026-01", "b")
    given("AZJN-2", "2026-04", "b", step="resolve", outcome="done")
    given("AZJN-3", "2026-02", "c")
    given("AZJN-3", "2026-05", "d")
    given("AZJN-3", "2026-06", None, outcome="failed")
    given("AZJN-3", "2026-07", "lost", outcome="failed")
    given("AZJN-6", "2026-08", "never on a device", outcome="failed")
    given("AZJN-4", "2026-01", "e", outcome="retired")
    given("AZJN-5", "2026-01", "f", sandbox=True)
    found = [(each.serial, each.since) for each in ledger.credentials(sandbox=False)]
    assert found == [("AZJN-2", "2026-01"), ("AZJN-1", "2026-03"), ("AZJN-3", "2026-05")]
    assert [each.serial for each in ledger.credentials(sandbox=True)] == ["AZJN-5"]


def test_fuses_that_another_machine_began_are_not_burned_again_unless_somebody_looked(
    ledger: Ledger,
) -> None:
    elsewhere = {"host": "station-7", "process": "boot 1 2"}
    ledger.begin(entry(step="fuse", **elsewhere), ALLOW)
    ledger.write(entry(step="resolve", outcome="failed"))  # that machine is gone
    with pytest.raises(PreflightError, match="which fuses are burned is unknown"):
        ledger.begin(entry(attempt="second", step="fuse"), ALLOW)
    ledger.write(entry(step="fuse", outcome="failed"))  # unfused, as an operator says
    ledger.begin(entry(attempt="third", step="fuse"), ALLOW)


def test_fuses_that_nobody_saw_end_say_nothing_of_the_flash(ledger: Ledger) -> None:
    ledger.write(flashed())
    ledger.write(died(attempt="second", step="fuse"))
    ledger.begin(entry(attempt="third"), ALLOW)
    known = ledger.standings({SERIAL: EMAIL}, sandbox=False)[SERIAL]
    assert (known.unknown, known.flashed is not None) == (False, True)
    assert known.perhaps_fused is not None
    assert known.perhaps_fused.outcome == "unknown"
    assert outcomes(ledger)[-2:] == [
        (SERIAL, "fuse", "unknown"),
        (SERIAL, "provision_identity", "started"),
    ]


CHANGES = {
    "UPDATE ledger SET serial = 'AZJN-9999' WHERE row = 4": "row 4 is not what was written",
    "UPDATE ledger SET credential = 'x' WHERE row = 10": "row 10 is not what was written",
    "DELETE FROM ledger WHERE row = 4": "row 4 was removed before row 5",
    "DELETE FROM ledger WHERE row IN (1, 2)": "rows 1 to 2 were removed before row 3",
    "DELETE FROM ledger WHERE row > 7": "rows 8 to 10 were removed from its end",
    "DELETE FROM ledger": "rows 1 to 10 were removed from its end",
    "UPDATE ledger SET row = 99 WHERE row = 3; UPDATE ledger SET row = 3 WHERE row = 4;"
    "UPDATE ledger SET row = 4 WHERE row = 99": "row 3 is not what was written",
    "UPDATE ledger SET row = -row WHERE row > 5; UPDATE ledger SET row = 1 - row WHERE row < 0;"
    "INSERT INTO ledger (row, attempt, serial, email, sandbox, step, outcome, at, flashed, hash)"
    " VALUES (6, 'a', 'AZJN-77', 'e', 0, 'flash', 'done', 't', 1, 'h')": "row 6 is not what was",
    "INSERT INTO ledger (row, attempt, serial, email, sandbox, step, outcome, at, flashed, hash)"
    " VALUES (11, 'a', 'AZJN-77', 'e', 0, 'flash', 'done', 't', 1, 'h')": "row 11 is not what was",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_row_is_found_and_named(file: Path, run: Run, change: str) -> None:
    with Ledger(f"sqlite:///{file}") as ledger:
        ten(ledger)
        assert list(check(ledger)) == []
    with sqlite3.connect(file) as database:
        database.executescript(change)
    database.close()
    found = run("ledger", "verify", "--database", f"sqlite:///{file}")
    assert found.code == 9
    assert CHANGES[change] in found.err


def test_a_whole_new_chain_is_found_by_an_anchor(file: Path, run: Run) -> None:
    with Ledger(f"sqlite:///{file}") as ledger:
        ten(ledger)
        kept = ledger.head()
    file.unlink()
    with Ledger(f"sqlite:///{file}") as ledger:
        ten(ledger)
        assert list(check(ledger)) == []
        (found,) = check(ledger, (kept,))
        assert found == "row 10 differs from its anchor: the ledger was rewritten"
        (found,) = check(ledger, (Receipt(row=11, hash=kept.hash),))
        assert found == "row 11 of the anchor is missing"
    anchored = run("ledger", "verify", "--database", f"sqlite:///{file}", "--anchor", "10:beef")
    assert anchored.code == 2


def test_a_new_ledger_is_what_the_migrations_make(tmp_path: Path) -> None:
    made = []
    for name, make in ("new", schema.migrate), ("migrated", migrated):
        engine = sql.create_engine(f"sqlite:///{tmp_path / name}")
        make(engine)
        engine.dispose()
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as database:
            made.append(sorted("".join(line.split()) for line in database.iterdump()))
    assert made[0] == made[1]
    assert any("CREATEINDEXledger_serial" in line for line in made[0])


def test_a_new_ledger_of_postgresql_is_what_the_migrations_make(postgres: Postgres) -> None:
    made = []
    for make in schema.migrate, migrated:
        postgres.empty()
        engine = sql.create_engine(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
        make(engine)
        engine.dispose()
        lines = postgres.dump().splitlines()
        made.append([line for line in lines if not line.startswith("\\")])  # a key of pg_dump
    assert made[0] == made[1]
    assert any("CREATE INDEX ledger_serial" in line for line in made[0])


def migrated(engine: sql.Engine) -> None:
    """Make the tables by all migrations in turn, as they came to those who had the first."""
    with engine.begin() as connection:
        schema._upgrade(connection)


def test_the_newest_migration_is_the_version_and_makes_the_tables() -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(schema._alembic()).get_heads() == [schema.VERSION]
    engine = sql.create_engine("sqlite://")
    migrated(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_a_ledger_of_a_newer_version_is_not_touched(file: Path) -> None:
    with Ledger(f"sqlite:///{file}") as ledger:
        ledger.write(entry())
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with Ledger(f"sqlite:///{file}") as ledger, pytest.raises(LedgerError, match="newer version"):
        ledger.write(entry())


def test_rows_that_are_written_while_it_is_checked_are_no_finding(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.write(entry())
    rows = ledger.rows

    def later(*serials: str) -> Iterator[tuple[int, Entry, str]]:
        ledger.write(entry(outcome="failed"))
        return rows(*serials)

    monkeypatch.setattr(ledger, "rows", later)
    assert list(check(ledger)) == []


def test_several_rows_are_written_together_or_not_at_all(ledger: Ledger) -> None:
    with ledger.writing() as pen:
        first = pen.write(entry())
        assert pen.write(entry(outcome="failed")).row == first.row + 1
        assert pen.head().row == first.row + 1
        last = pen.last(serial=SERIAL)
        assert last is not None
        assert last.outcome == "failed"
        assert pen.last(attempt="another") is None
    with contextlib.suppress(KeyError), ledger.writing() as pen:
        pen.write(entry(outcome="done"))
        raise KeyError
    assert [row.outcome for _, row, _ in ledger.rows()] == ["started", "failed"]
    assert list(check(ledger)) == []


def test_a_fence_lets_no_row_pass_that_it_speaks_against(ledger: Ledger) -> None:
    def fence(connection: Any, row: Entry) -> None:
        if row.step == "flash":
            raise LedgerError("not yours", hint="none")

    ledger.begin(entry(), ALLOW, fence)
    with pytest.raises(LedgerError, match="not yours"):
        ledger.write(entry(step="flash"), fence)
    ledger.write(entry(outcome="failed"), fence)
    assert [row.outcome for _, row, _ in ledger.rows()] == ["started", "failed"]


def test_who_has_no_password_for_the_server_is_told_where_to_put_it(
    run: Run, postgres: Postgres
) -> None:
    ran = run("ledger", "list", "--database", postgres.url.replace("azaion@", "stranger@"))
    assert ran.code == 9
    assert "\nhint: put the password into ~/.pgpass " in ran.err


@thorough
def test_a_server_that_restarts_is_waited_for(postgres: Postgres) -> None:
    with Ledger(postgres.url) as ledger:
        ledger.write(entry())
        rows = ledger.head().row
        postgres.stop()
        later = threading.Timer(1.0, postgres.start)
        later.start()
        ledger.write(flashed())
        later.join()
        assert ledger.head().row == rows + 1
        assert list(check(ledger)) == []


@pytest.mark.parametrize("name", ["a b", "a?b", "100%", "a%20b", "a#b", "ü:@", "a\nb", "\udcff"])
def test_the_ledger_is_in_the_state_folder_whatever_its_name(name: str, tmp_path: Path) -> None:
    for rows in (0, 1):
        with ledger_of(ALLOW, tmp_path / name) as ledger:
            assert ledger.head().row == rows
            ledger.write(entry())
    assert list(tmp_path.rglob(FILE)) == [tmp_path / name / FILE]


def test_the_ledger_is_for_its_owner_only(file: Path) -> None:
    with Ledger(f"sqlite:///{file.parent}/new/{FILE}") as ledger:
        ledger.write(entry())
        for path in (file.parent / "new").iterdir():
            assert path.stat().st_mode & 0o777 == 0o600, path
        assert (file.parent / "new").stat().st_mode & 0o777 == 0o700


def records(ran: Ran) -> Any:
    return json.loads(ran.out)


def test_a_build_is_in_the_ledger_from_before_the_account_to_its_end(run: Run) -> None:
    record = records(run("image", "--serial", SERIAL, "--json", "--operator", "shift A"))
    rows = records(run("ledger", "show", SERIAL, "--json"))
    assert [(row["step"], row["outcome"]) for row in rows] == [
        ("provision_identity", "started"),
        ("build_image", "started"),
        ("flash", "started"),
        ("post_flash", "done"),
    ]
    last = rows[-1]
    assert record["ledger"] == {"row": last["row"], "hash": last["hash"]}
    for name in ("attempt", "email", "account", "image", "image_sha256", "flashed", "device"):
        assert last[name] == record[name]
    assert last["operator"] == "shift A"
    assert last["release"] == "R35.3.1"
    assert last["sandbox"] is True
    assert last["extra"]["smoke"] == "logged in"
    shown = run("ledger", "show", SERIAL).out
    assert "\n  smoke          logged in\n" in shown
    assert "extra" not in shown
    (attempt,) = records(run("ledger", "list", "--json"))
    assert attempt["attempt"] == record["attempt"]
    assert run("ledger", "verify").code == 0


def test_a_credential_is_known_by_its_fingerprint_only(run: Run, tmp_path: Path) -> None:
    from azaion_imagebuild import images
    from azaion_imagebuild.identity import device_conf
    from azaion_imagebuild.model import DEVICE_CONF

    run("image", "--serial", SERIAL)
    state = tmp_path / "state/azaion-imagebuild"
    device = images.read_file(Sandbox(state / "sandbox").device, DEVICE_CONF, 4096)
    assert device is not None
    password = device_conf.parse(device.data).password
    (attempt,) = records(run("ledger", "list", "--json"))
    assert attempt["credential"] == password.fingerprint()
    for path in state.glob("ledger*"):
        assert password.reveal().encode() not in path.read_bytes()
    assert password.fingerprint() != Secret("0" * 32).fingerprint()


def test_the_second_serial_of_an_account_is_refused_before_anything_changes(run: Run) -> None:
    assert run("image", "--serial", SERIAL).code == 0
    refused = run("image", "--serial", "XYZ-0042", "--json")
    assert refused.code == 3
    assert records(refused)["account"] is None
    assert "belongs to AZJN-0042" in refused.err
    (attempt,) = records(run("ledger", "list", "--json"))
    assert attempt["serial"] == SERIAL


def test_a_site_can_refuse_a_second_time(run: Run) -> None:
    Path("imagebuild.toml").write_text('[ledger]\nreprovision = "confirm"\n')
    assert run("image", "--serial", SERIAL).code == 0
    refused = run("image", "--serial", SERIAL)
    assert refused.code == 3
    assert "hint: to build it again, add --yes" in refused.err
    assert run("image", "--serial", SERIAL, "--yes").code == 0
    assert run("ledger", "resolve", "--sandbox", SERIAL, "retired", "--reason", "scrap").code == 0
    assert run("image", "--serial", SERIAL).code == 0


@pytest.mark.parametrize("place", ["folder", "no database", "no driver", "no server"])
def test_a_ledger_that_cannot_be_written_stops_the_build_before_the_account(
    run: Run, tmp_path: Path, place: str
) -> None:
    bad = tmp_path / "bad"
    if place == "folder":
        bad.mkdir()
    elif place == "no database":
        bad.write_bytes(b"not a database" * 1000)
    url = {
        "no driver": "mysql://db/azaion",
        "no server": "postgresql://nobody:secretword@127.0.0.1:1/x",
    }.get(place, f"sqlite:///{bad}")
    Path("imagebuild.toml").write_text(f"[ledger]\ndatabase = {json.dumps(url)}\n")
    ran = run("image", "--serial", SERIAL, "--json")
    assert ran.code == 9
    record = records(ran)
    assert (record["account"], record["ledger"], record["flashed"]) == (None, None, False)
    assert "error: " in ran.err
    assert "secretword" not in ran.err + ran.out
    accounts = records(run("sandbox", "accounts", "--json"))
    assert accounts == []


def test_a_ledger_that_fails_at_the_end_says_that_the_device_was_flashed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Ledger.write

    def full_at_last(self: Ledger, row: Entry) -> Receipt:
        if row.outcome == "done":
            raise LedgerError("cannot write the ledger: disk is full", hint="make room")
        return write(self, row)

    monkeypatch.setattr(Ledger, "write", full_at_last)
    ran = run("image", "--serial", SERIAL, "--json")
    record = records(ran)
    assert (ran.code, record["flashed"], record["step"]) == (9, True, "ledger")


def test_a_failed_build_is_in_the_ledger_with_its_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azaion_imagebuild.l4t.flashing import FlashSh

    def no_device(self: object, build: object) -> None:
        raise FlashError("the cable came off", hint="put it in")

    monkeypatch.setattr(FlashSh, "flash", no_device)
    assert run("image", "--serial", SERIAL).code == 7
    (attempt,) = records(run("ledger", "list", "--json"))
    assert (attempt["step"], attempt["outcome"], attempt["exit_code"]) == ("flash", "failed", 7)
    assert attempt["error"] == "the cable came off"
    assert attempt["flashed"] is False


@pytest.mark.parametrize("end", one_of(["> /dev/full", ">&-"]))
@pytest.mark.parametrize("form", one_of(["", "--csv"]))
def test_an_export_that_is_cut_is_no_success(run: Run, file: Path, form: str, end: str) -> None:
    assert run("image", "--serial", SERIAL, "--database", f"sqlite:///{file}").code == 0
    tool = f"{sys.executable} -m azaion_imagebuild"
    line = f"{tool} ledger export {form} --database sqlite:///{file} {end}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    assert (done.returncode, done.stderr.count("error: ")) == (2, 1)
    assert "Traceback" not in done.stderr


def test_the_ledger_is_exported_whole(run: Run, file: Path) -> None:
    url = f"sqlite:///{file}"
    with Ledger(url) as ledger:
        ten(ledger)
        ledger.write(entry(error="=cmd|' /C calc'!A0", outcome="failed"))
    rows = json.loads(run("ledger", "export", "--database", url).out)
    assert [row["row"] for row in rows] == list(range(1, 12))
    assert run("ledger", "export", "--csv", "--out", "rows.csv", "--database", url).code == 0
    table = list(csv.DictReader(io.StringIO(Path("rows.csv").read_text())))
    assert [row["serial"] for row in table] == [row["serial"] for row in rows]
    assert table[-1]["error"].startswith("'=")
    assert run("ledger", "export", "--out", "rows.csv", "--database", url).code == 2


def test_times_of_the_sandboxs_accounts_are_written_as_the_ledgers(run: Run) -> None:
    ended = run("image", "--serial", SERIAL).err
    assert re.search(r"flashed +yes \(jetson-orin-nano-devkit\)", ended)
    (account,) = records(run("sandbox", "accounts", "--json"))
    for name in ("created", "updated"):
        assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z", account[name])


def test_a_device_of_the_sandbox_is_resolved_with_the_flag_that_says_so(run: Run) -> None:
    said = ("resolve", SERIAL, "retired", "--reason", "x")
    assert run("image", "--serial", SERIAL).code == 0
    refused = run("ledger", *said)
    assert refused.code == 2
    assert f"error: {SERIAL} is a device of the sandbox only\nhint: add --sandbox" in refused.err
    assert run("ledger", *said, "--sandbox").code == 0


def test_a_device_stays_unknown_after_an_attempt_that_did_not_reach_it(ledger: Ledger) -> None:
    ledger.write(entry("AZJN-0001", attempt="first", step="flash", outcome="unknown"))
    ledger.write(entry("AZJN-0001", attempt="next", outcome="failed"))
    ledger.write(entry("AZJN-0002", attempt="other", outcome="failed"))
    ledger.write(died(serial="AZJN-0003", attempt="virtual", step="flash", sandbox=True))

    def listed(**wanted: Any) -> list[tuple[str, str]]:
        found = history.attempts(ledger, history.Wanted(**wanted))
        return [(each["attempt"], each["outcome"]) for each in found]

    unknown = [("first", "unknown"), ("virtual", "unknown")]
    assert listed(unknown=True) == unknown
    assert listed(unknown=True, serial="AZJN-0003") == unknown[1:]
    assert sorted(listed(unknown=True, failed=True)) == sorted(
        [*unknown, ("next", "failed"), ("other", "failed")]
    )
    assert [each.attempt for each in ledger.unknown(sandbox=False)] == ["first"]


def test_a_device_whose_fuses_are_unknown_is_unknown_until_somebody_has_looked(
    ledger: Ledger,
) -> None:
    ledger.write(entry("AZJN-0001", attempt="burned", step="fuse", outcome="unknown"))
    ledger.write(died(serial="AZJN-0002", attempt="burning", step="fuse"))
    found = history.attempts(ledger, history.Wanted(unknown=True))
    assert [(each["attempt"], each["outcome"]) for each in found] == [
        ("burned", "unknown"), ("burning", "unknown"),
    ]  # fmt: skip
    for serial in ("AZJN-0001", "AZJN-0002"):
        ledger.write(entry(serial, attempt="looked", step="fuse", outcome="done"))
    assert history.attempts(ledger, history.Wanted(unknown=True)) == []


def test_an_unknown_serial_is_said_to_be_unknown(run: Run) -> None:
    assert run("ledger", "show", SERIAL).code == 2
    assert run("ledger", "resolve", SERIAL, "done", "--reason", "x").code == 2
    assert records(run("ledger", "list", "--json")) == []


def test_a_sandbox_that_is_reset_forgets_its_devices(run: Run) -> None:
    assert run("image", "--serial", SERIAL).code == 0
    assert run("sandbox", "reset").code == 0
    assert run("image", "--serial", "XYZ-0042").code == 0
    assert run("ledger", "verify").code == 0


def test_texts_of_the_world_are_stored_as_they_can_be(ledger: Ledger) -> None:
    row = structs.replace(flashed(), error="\u2603 'quote' \\ \"x\"", seconds=0.1 + 0.2)
    ledger.write(row)
    assert [found for _, found, _ in ledger.rows()] == [row]
    assert list(check(ledger)) == []


@pytest.mark.parametrize("name", ["a%20b.sqlite3", "a b.sqlite3", "a%2Fb.sqlite3", "a+b.sqlite3"])
def test_a_sqlite_urls_file_is_named_as_it_is_written(tmp_path: Path, name: str) -> None:
    with Ledger(f"sqlite:///{tmp_path}/{name}") as ledger:
        assert list(ledger.rows()) == []
    assert (tmp_path / name).is_file()
