"""Reviews and the audit trail beside the inspections; none of the three is ever altered.

Each index of a filter ends with the id now: a page of the listing, newest first, is a range of it. Times are ranges of
ids, so that `created` needs none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ID = sa.String(26).with_variant(sa.String(26, collation="C"), "postgresql")
_BIG_SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_OVER = "EXISTS (SELECT 1 FROM audit WHERE action = 'expired' AND subject > 'inspections/' || OLD.{id})"
_EXPIRED = {"inspections": _OVER.format(id="id"), "reviews": _OVER.format(id="inspection_id"), "audit": ""}
"""When a row may be deleted: once the trail says that its time is over; what is in the trail, never."""
_REFUSAL = "what is recorded is never altered"


def upgrade() -> None:
    """Make the tables, and have the database refuse what would alter them."""
    if op.get_bind().dialect.name == "postgresql":
        # Ids are compared letter by letter, as they sort here, whatever language the database was made for.
        op.execute('ALTER TABLE inspections ALTER COLUMN id TYPE varchar(26) COLLATE "C"')
    for column in ("created", "station", "lot", "serial"):
        op.drop_index(f"ix_inspections_{column}", "inspections")
    for column in ("station", "lot", "serial"):
        op.create_index(f"ix_inspections_{column}", "inspections", [column, "id"])
    rejected = sa.text("verdict <> 'pass'")
    op.create_index(
        "ix_inspections_verdict", "inspections", ["verdict", "id"], sqlite_where=rejected, postgresql_where=rejected
    )
    op.create_table(
        "reviews",
        sa.Column("id", _BIG_SERIAL, nullable=False),
        sa.Column("inspection_id", _ID, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reviewer", sa.Text),
        sa.Column("review", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["inspection_id"], ["inspections.id"]),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_reviews_inspection_id", "reviews", ["inspection_id", "id"])
    op.create_index("ix_reviews_review", "reviews", ["review", "inspection_id"])
    op.create_table(
        "audit",
        sa.Column("id", _BIG_SERIAL, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("role", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", _ORDERED, nullable=False),
        sa.Column("old", sa.JSON(none_as_null=True)),
        sa.Column("new", sa.JSON(none_as_null=True)),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_action", "audit", ["action", "subject"])
    if op.get_bind().dialect.name == "sqlite":
        _protect_sqlite()
    else:
        _protect_postgresql()


def _protect_sqlite() -> None:
    for table, expired in _EXPIRED.items():
        for operation in ("UPDATE", "DELETE"):
            condition = f"WHEN NOT {expired}" if operation == "DELETE" and expired else ""
            op.execute(
                f"CREATE TRIGGER {table}_no_{operation.lower()} BEFORE {operation} ON {table} {condition} "
                f"BEGIN SELECT RAISE(ABORT, '{table}: {_REFUSAL}'); END"
            )


def _protect_postgresql() -> None:
    for table, expired in _EXPIRED.items():
        allowed = f"IF TG_OP = 'DELETE' AND {expired} THEN RETURN OLD; END IF;" if expired else ""
        op.execute(
            f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {allowed} "
            f"RAISE EXCEPTION '{table}: {_REFUSAL}'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_immutable BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_refuse()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()"
        )
