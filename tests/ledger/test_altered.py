"""A ledger that somebody changed behind this tool's back: found, named, and never believed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from alembic.command import upgrade
from ledgers import entry, flashed, ten
from postgres import Postgres
from thorough import one_of
from world import SERIAL, Run

from azaion_imagebuild.errors import LedgerError, PreflightError
from azaion_imagebuild.ledger import Ledger, schema
from azaion_imagebuild.ledger.chain import check
from azaion_imagebuild.ledger.engine import FILE
from azaion_imagebuild.ledger.entry import FIELDS, KINDS
from azaion_imagebuild.ledger.soundness import refuse_altered
from azaion_imagebuild.settings import LedgerSettings

ALLOW = LedgerSettings()
BEFORE = json.loads(Path(__file__).with_name("ledger_0001.json").read_text())
"""Rows that the version before the checks wrote, with their hashes."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / FILE


@pytest.fixture
def url(file: Path) -> str:
    """The URL of a ledger with ten rows, which nobody has open."""
    url = f"sqlite:///{file}"
    with Ledger(url) as ledger:
        ten(ledger)
    return url


@pytest.fixture(params=one_of(["sqlite", "postgresql"], kept=1))
def old(request: pytest.FixtureRequest, file: Path) -> str:
    """The URL of a ledger with the tables and rows of the version before."""
    url, driver = f"sqlite:///{file}", f"sqlite:///{file}"
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        postgres.empty()
        url, driver = postgres.url, postgres.url.replace("postgresql:", "postgresql+psycopg:")
    engine = sql.create_engine(driver)
    with engine.begin() as connection:
        config = schema._alembic()
        config.attributes["connection"] = connection
        upgrade(config, "0001")
        columns = dict.fromkeys(FIELDS)
        connection.execute(schema.rows.insert(), [columns | {"flashed": 0} | row for row in BEFORE])
        last = {"rows": len(BEFORE), "hash": BEFORE[-1]["hash"]}
        connection.execute(schema.head.update().values(**last))
    engine.dispose()
    return url


def alter(file: Path, *statements: str, values: tuple[Any, ...] = ()) -> None:
    """Change a SQLite file as somebody would who wants no check to stop him."""
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            database.execute(statement, values)


def test_a_ledger_of_the_version_before_is_read_and_verified(old: str) -> None:
    with Ledger(old) as ledger:
        assert list(check(ledger)) == []
        for (number, row, seal), wanted in zip(ledger.rows(), BEFORE, strict=True):
            said = {"row": number, **{name: getattr(row, name) for name in FIELDS}, "hash": seal}
            assert {name: value for name, value in said.items() if value is not None} == wanted
        ledger.write(entry())
        assert list(check(ledger)) == []


def test_a_ledger_that_was_altered_before_the_checks_came_is_kept_and_named(file: Path) -> None:
    with Ledger(f"sqlite:///{file}") as ledger:
        ten(ledger)
    with contextlib.closing(sqlite3.connect(file)) as database:
        lines = list(database.iterdump())
    old = file.with_name("old.sqlite3")
    engine = sql.create_engine(f"sqlite:///{old}")
    with engine.begin() as connection:
        config = schema._alembic()
        config.attributes["connection"] = connection
        upgrade(config, "0001")
    engine.dispose()
    with contextlib.closing(sqlite3.connect(old)) as database, database:
        for line in lines:
            if line.startswith('INSERT INTO "ledger" VALUES'):
                database.execute(line)
        head = [line for line in lines if line.startswith('INSERT INTO "ledger_head"')]
        database.execute("DELETE FROM ledger_head")
        database.execute(head[0])
        database.execute("UPDATE ledger SET sandbox = 2 WHERE row = 4")
    with Ledger(f"sqlite:///{old}") as ledger:
        assert next(check(ledger)).startswith("row 4 was altered: sandbox is 2, not true or")


ODD: dict[type, tuple[Any, ...]] = {
    bool: (2, -1, 0.5, "x", b"\x01", None),
    str: (b"blob", 7, 7.5),
    int: (b"blob", "many", 7.5),
    float: (b"blob", "long"),
}
VALUES = [(name, value) for name in FIELDS for value in ODD[KINDS[name][0]]]


@pytest.fixture(scope="module")
def two_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("two") / FILE
    with Ledger(f"sqlite:///{file}") as ledger:
        ledger.write(entry("AZJN-0001"))
        ledger.write(flashed())
    return file


def odd_in(file: Path, name: str, value: Any) -> None:
    """Put an odd value into row 2, through every constraint of the table."""
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        kind = {"sandbox": "BOOLEAN", "flashed": "BOOLEAN", "exit_code": "INTEGER"}.get(name, "")
        for index in ("ix_ledger_attempt", "ledger_serial", "ledger_email", "ledger_hidden"):
            database.execute(f"DROP INDEX IF EXISTS {index}")
        copied = ", ".join(
            f'"{each}" {kind if each == name else ""}' for each in ("row", *FIELDS, "hash")
        )
        database.execute("ALTER TABLE ledger RENAME TO before")
        database.execute(f"CREATE TABLE ledger ({copied})")
        database.execute("INSERT INTO ledger SELECT * FROM before")  # as SQLite allows it
        database.execute(f'UPDATE ledger SET "{name}" = ? WHERE row = 2', (value,))  # noqa: S608
        (stored,) = database.execute(f'SELECT "{name}" FROM ledger WHERE row = 2').fetchone()  # noqa: S608
        assert type(stored) is type(value)


@pytest.mark.parametrize(("name", "value"), one_of(VALUES))
def test_a_value_of_another_type_is_named(
    two_rows: Path, file: Path, name: str, value: Any
) -> None:
    shutil.copy(two_rows, file)
    odd_in(file, name, value)
    with Ledger(f"sqlite:///{file}") as ledger:
        found = list(check(ledger))
        assert any(f"row 2 was altered: {name} is" in each for each in found), found
        with pytest.raises(LedgerError, match=f"row 2 of the ledger was altered: {name} is"):
            list(ledger.rows())


@pytest.mark.parametrize("number", one_of([None, 1.5, "1", b"1"]))
def test_a_row_without_a_number_is_named(two_rows: Path, file: Path, number: Any) -> None:
    shutil.copy(two_rows, file)
    odd_in(file, "extra", "{}")  # the table has no constraint any more
    alter(file, "UPDATE ledger SET row = ? WHERE row = 1", values=(number,))
    with Ledger(f"sqlite:///{file}") as ledger:
        assert any("number is" in each for each in check(ledger))
        for read in (lambda: list(ledger.rows()), lambda: ledger.begin(entry(), ALLOW)):
            with pytest.raises(LedgerError):
                read()


@pytest.mark.parametrize(("name", "value"), one_of(VALUES))
def test_no_odd_value_hides_a_row_from_the_guards(
    two_rows: Path, file: Path, name: str, value: Any
) -> None:
    shutil.copy(two_rows, file)
    odd_in(file, name, value)
    with Ledger(f"sqlite:///{file}") as ledger, pytest.raises((LedgerError, PreflightError)):
        ledger.begin(entry("XYZ-0042"), ALLOW)


REFUSED = [
    (name, value) for name, value in VALUES if isinstance(value, bytes) or KINDS[name][0] is not str
]
"""A number that is put into a column of text becomes text there."""


@pytest.mark.parametrize(("name", "value"), one_of(REFUSED))
def test_the_table_takes_no_value_of_another_type(
    two_rows: Path, file: Path, name: str, value: Any
) -> None:
    shutil.copy(two_rows, file)
    with (
        contextlib.closing(sqlite3.connect(file)) as database,
        pytest.raises(sqlite3.IntegrityError, match="constraint failed"),
    ):
        database.execute(f'UPDATE ledger SET "{name}" = ?', (value,))  # noqa: S608


def test_a_blob_is_an_error_of_the_ledger_not_a_bug(file: Path, run: Run) -> None:
    url = f"sqlite:///{file}"
    with Ledger(url) as ledger:
        ten(ledger)
    for name in ("error", "extra", "email", "serial", "hash"):
        copy = file.with_name(f"{name}.sqlite3")
        shutil.copy(file, copy)
        alter(copy, f"UPDATE ledger SET \"{name}\" = x'ff00' WHERE row = 3")  # noqa: S608
        for command in (["list"], ["export"], ["export", "--csv"], ["verify"]):
            ran = run("ledger", *command, "--database", f"sqlite:///{copy}")
            if command == ["list"] and ran.code == 0:
                continue  # only the last row of each attempt is read
            assert (ran.code, "Traceback" in ran.err) == (9, False), (name, command)
            assert "row 3" in ran.err


@pytest.mark.parametrize("extra", one_of(["{bad", "[" * 100_000, "[1]"]))
def test_fields_that_are_no_object_are_an_error_of_the_ledger(
    two_rows: Path, file: Path, run: Run, extra: str
) -> None:
    shutil.copy(two_rows, file)
    alter(file, "UPDATE ledger SET extra = ? WHERE row = 2", values=(extra,))
    for command in ("list", "export", "verify"):
        ran = run("ledger", command, "--json", "--database", f"sqlite:///{file}")
        assert (ran.code, "Traceback" in ran.err) == (9, False), command


def test_text_that_is_no_utf8_is_an_error_of_the_ledger(file: Path, url: str, run: Run) -> None:
    alter(file, "UPDATE ledger SET error = CAST(x'ff41' AS TEXT) WHERE row = 3")
    for command in ("list", "export", "verify"):
        ran = run("ledger", command, "--database", url)
        assert (ran.code, "Traceback" in ran.err) == (9, False), command


def test_a_schema_that_is_no_utf8_is_an_error_of_the_ledger(
    two_rows: Path, file: Path, run: Run
) -> None:
    file.write_bytes(
        two_rows.read_bytes().replace(b"CREATE TABLE ledger ", b"CREATE \xff ledger   ")
    )
    for command in ("list", "export", "verify"):
        ran = run("ledger", command, "--database", f"sqlite:///{file}")
        assert (ran.code, "malformed database" in ran.err) == (9, True), ran.err
        assert "restore it from a backup" in ran.hints[0]
    with Ledger(f"sqlite:///{file}") as ledger, pytest.raises(LedgerError, match="malformed"):
        ledger.write(entry())


HEADS = {
    "INSERT INTO ledger_head SELECT 2, rows, hash FROM ledger_head": "more than one head",
    "INSERT INTO ledger_head VALUES (0, 3, 'x')": "more than one head",
    "DELETE FROM ledger_head": "head (its number of rows and last hash) is missing",
    "UPDATE ledger_head SET id = 7": "head was altered",
    "UPDATE ledger_head SET rows = x'31'": "head was altered",
    "UPDATE ledger_head SET hash = CAST(hash AS BLOB)": "head was altered",
}


@pytest.mark.parametrize("change", one_of(HEADS))
def test_another_head_is_named_and_stops_every_writer(
    file: Path, url: str, run: Run, change: str
) -> None:
    alter(file, change)
    ran = run("ledger", "verify", "--database", url)
    assert (ran.code, HEADS[change] in ran.err) == (9, True), ran.err
    with Ledger(url) as ledger, pytest.raises(LedgerError, match="head"):
        ledger.write(entry())


def test_postgresql_takes_no_second_head_and_no_unknown_outcome(postgres: Postgres) -> None:
    postgres.empty()
    with Ledger(postgres.url) as ledger:
        ledger.write(entry())
    for statement in (
        "INSERT INTO ledger_head SELECT 2, rows, hash FROM ledger_head",
        "UPDATE ledger SET outcome = 'finished'",
    ):
        with pytest.raises(Exception, match="psql"):
            postgres.psql(statement)


@pytest.mark.parametrize("size", one_of([1, 15, 16, 100, 511, 512, 4095]))
def test_a_file_that_was_cut_is_no_new_ledger(file: Path, url: str, run: Run, size: int) -> None:
    os.truncate(file, size)
    for command in ("verify", "list"):
        ran = run("ledger", command, "--database", url)
        assert (ran.code, f"({size} bytes) is not a whole SQLite database" in ran.err) == (9, True)
    with Ledger(url) as ledger, pytest.raises(LedgerError, match="was cut or"):
        ledger.write(entry())
    assert file.stat().st_size == size


def test_verify_asks_for_a_ledger_that_is_there(file: Path, run: Run) -> None:
    assert "there is no ledger" in (ran := run("ledger", "verify")).err
    assert ran.code == 9
    missing = file.with_name("none") / FILE
    ran = run("ledger", "verify", "--database", f"sqlite:///{missing}")
    assert (ran.code, f"there is no ledger at {missing}" in ran.err) == (9, True)
    assert not missing.parent.exists()
    file.touch()
    ran = run("ledger", "verify", "--database", f"sqlite:///{file}")
    assert (ran.code, "there is no ledger in this database" in ran.err) == (9, True)


@pytest.mark.parametrize("form", one_of(["text", "json"]))
def test_an_emptied_ledger_beside_logs_of_attempts_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("AZAION_IMAGEBUILD_LOG_FORMAT", form)
    assert run("image", "--serial", SERIAL).code == 0
    assert run("ledger", "verify").code == 0
    state = Path(os.environ["XDG_STATE_HOME"]) / "azaion-imagebuild"
    alter(
        state / FILE, "DELETE FROM ledger", "UPDATE ledger_head SET rows = 0, hash = ''"
        .replace("''", f"'{'0' * 64}'"),
    )  # fmt: skip
    ran = run("ledger", "verify")
    assert (ran.code, "the ledger is empty, but 1 attempts that flashed" in ran.err) == (9, True)
    assert SERIAL in ran.err


@pytest.mark.parametrize("what", ["replaced", "removed"])
def test_a_file_that_is_replaced_while_a_writer_waits_takes_no_row(file: Path, what: str) -> None:
    url = f"sqlite:///{file}"
    with Ledger(url) as ledger:
        ten(ledger)
        other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        raised: list[LedgerError] = []

        def write() -> None:
            with pytest.raises(LedgerError) as caught:
                ledger.begin(entry("AZJN-0099"), ALLOW)
            raised.append(caught.value)

        writer = threading.Thread(target=write)
        writer.start()
        writer.join(0.3)  # it waits for the other
        if what == "replaced":
            shutil.copy(file, copy := file.with_name("copy"))
            copy.rename(file)
        else:
            file.unlink()
        other.execute("ROLLBACK")
        other.close()
        writer.join()
        assert "was replaced or removed" in raised[0].message
        assert int(raised[0].exit_code) == 9


def test_what_an_attempt_relies_on_is_checked_without_reading_the_whole_ledger(file: Path) -> None:
    asked: list[tuple[str, Any]] = []
    with Ledger(f"sqlite:///{file}") as ledger:
        ten(ledger)
        with ledger.reading() as connection:
            sql.event.listen(
                connection, "before_cursor_execute", lambda *call: asked.append((call[2], call[3]))
            )
            refuse_altered(connection, entry("AZJN-2"), ledger.head())
            queries = [each for each in asked if "JOIN" in each[0]]
            plans = [
                str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all())
                for text, values in queries
            ]
    assert len(plans) == 2
    assert not any("SCAN" in each for each in plans), plans


def test_what_hides_from_a_search_is_found_by_an_index(file: Path) -> None:
    with Ledger(f"sqlite:///{file}") as ledger:
        ten(ledger)
        with ledger.reading() as connection:
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN SELECT * FROM ledger WHERE {schema.HIDDEN} LIMIT 1"  # noqa: S608
            ).all()
    assert "ledger_hidden" in str(plan), plan


def test_an_index_that_hides_a_row_is_named(file: Path, url: str, run: Run) -> None:
    alter(
        file,
        "CREATE TABLE other (email, row)",
        "CREATE INDEX of_other ON other (email, row)",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name ="
        " 'of_other') WHERE name = 'ledger_email'",
        "DELETE FROM sqlite_master WHERE tbl_name = 'other'",
    )
    ran = run("ledger", "verify", "--database", url)
    assert (ran.code, "missing from index ledger_email" in ran.err) == (9, True), ran.err


TRIGGERS = {
    "CREATE TRIGGER new AFTER INSERT ON ledger BEGIN DELETE FROM ledger; END": "new",
    "CREATE TRIGGER late AFTER UPDATE ON ledger_head BEGIN DELETE FROM ledger; END": "late",
}


@pytest.mark.parametrize("change", one_of(TRIGGERS))
def test_a_trigger_is_named_before_it_changes_a_row(
    file: Path, url: str, run: Run, change: str
) -> None:
    alter(file, change)
    ran = run("ledger", "verify", "--database", url)
    assert (ran.code, f"the trigger {TRIGGERS[change]} on ledger" in ran.err) == (9, True), ran.err
    ran = run("image", "--serial", SERIAL, "--database", url, "--json")
    assert (ran.code, ran.json["account"]) == (9, None), ran.err


@pytest.mark.parametrize(
    ("change", "named"),
    one_of([
        ("CREATE RULE gone AS ON INSERT TO ledger DO INSTEAD NOTHING", "the rule gone on ledger"),
        ("ALTER TABLE ledger ENABLE ROW LEVEL SECURITY", "the row security ledger on ledger"),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE TRIGGER no BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION no()",
            "the trigger no on ledger",
        ),
    ]),
)  # fmt: skip
def test_a_rule_of_postgresql_is_named_before_it_drops_a_row(
    postgres: Postgres, change: str, named: str
) -> None:
    postgres.empty()
    with Ledger(postgres.url) as ledger:
        ledger.write(entry())
        postgres.psql(change)
        assert any(named in each for each in check(ledger))
        with pytest.raises(LedgerError, match=named):
            ledger.write(entry())


RESET = "UPDATE ledger_head SET rows = 8, hash = (SELECT hash FROM ledger WHERE row = {})"
ALTERED = {
    "the account's own row": ("UPDATE ledger SET outcome = 'failed' WHERE row = 3", "row 3 is not"),
    "the last row": ("UPDATE ledger SET outcome = 'failed' WHERE row = 10", "row 10 is not"),
    "a row before": ("DELETE FROM ledger WHERE row = 2", "row 2 was removed"),
    "the end": ("DELETE FROM ledger WHERE row > 8", "row 10 was removed from its end"),
    "all rows": ("DELETE FROM ledger", "row 10 was removed from its end"),
    "the head": (RESET.format(8), "row 10 is not the last one"),
    "the number": (RESET.format(10), "row 10 is not the last one"),
}


@pytest.mark.parametrize("what", one_of(ALTERED))
def test_no_attempt_goes_on_from_rows_that_were_altered(file: Path, what: str) -> None:
    change, named = ALTERED[what]
    with Ledger(f"sqlite:///{file}") as ledger:
        ten(ledger)
        alter(file, change)
        with pytest.raises(LedgerError, match=named):
            ledger.begin(entry("AZJN-2"), ALLOW)
