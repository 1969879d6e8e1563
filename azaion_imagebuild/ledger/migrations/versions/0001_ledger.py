"""The ledger's rows and its head."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "ledger",
        sql.Column("row", sql.Integer, primary_key=True, autoincrement=False),
        sql.Column("attempt", sql.String, nullable=False),
        sql.Column("serial", sql.String, nullable=False),
        sql.Column("email", sql.String, nullable=False),
        sql.Column("sandbox", sql.Boolean, nullable=False),
        sql.Column("step", sql.String, nullable=False),
        sql.Column("outcome", sql.String, nullable=False),
        sql.Column("at", sql.String, nullable=False),
        *(
            sql.Column(name, sql.String)
            for name in (
                "account",
                "credential",
                "image",
                "image_format",
                "image_sha256",
                "base_sha256",
                "proof",
            )
        ),
        sql.Column("flashed", sql.Boolean, nullable=False),
        *(sql.Column(name, sql.String) for name in ("device", "usb_instance", "ecid")),
        sql.Column("seconds", sql.Double),
        sql.Column("exit_code", sql.Integer),
        *(
            sql.Column(name, sql.String)
            for name in (
                "error",
                "station",
                "operator",
                "host",
                "process",
                "version",
                "release",
                "board",
                "extra",
            )
        ),
        sql.Column("hash", sql.String(64), nullable=False),
    )
    op.create_index("ix_ledger_attempt", "ledger", ["attempt"])
    op.create_index("ledger_serial", "ledger", ["serial", "row"])
    op.create_index("ledger_email", "ledger", ["email", "row"])
    head = op.create_table(
        "ledger_head",
        sql.Column("id", sql.Integer, primary_key=True, autoincrement=False),
        sql.Column("rows", sql.Integer, nullable=False),
        sql.Column("hash", sql.String(64), nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "rows": 0, "hash": "0" * 64}])
