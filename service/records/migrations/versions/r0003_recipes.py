"""Versions of recipes, and which of them was activated when; neither is ever altered."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_BIG_SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TABLES = ("recipe_versions", "recipe_activations")
_REFUSAL = "what is recorded is never altered"


def upgrade() -> None:
    """Make the tables, and have the database refuse what would alter them."""
    op.create_table(
        "recipe_versions",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("document", sa.JSON, nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text),
        sa.PrimaryKeyConstraint("name", "version"),
    )
    op.create_table(
        "recipe_activations",
        sa.Column("id", _BIG_SERIAL, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("as_default", sa.Boolean, nullable=False),
        sa.Column("activated", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_by", sa.Text),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["name", "version"], ["recipe_versions.name", "recipe_versions.version"]),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_recipe_activations_name", "recipe_activations", ["name", "id"])
    for table in _TABLES:
        if op.get_bind().dialect.name == "sqlite":
            _protect_sqlite(table)
        else:
            _protect_postgresql(table)


def _protect_sqlite(table: str) -> None:
    for operation in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{operation.lower()} BEFORE {operation} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table}: {_REFUSAL}'); END"
        )


def _protect_postgresql(table: str) -> None:
    op.execute(
        f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION '{table}: {_REFUSAL}'; END $$"
    )
    for name, events, each in (("immutable", "UPDATE OR DELETE", "ROW"), ("no_truncate", "TRUNCATE", "STATEMENT")):
        op.execute(
            f"CREATE TRIGGER {table}_{name} BEFORE {events} ON {table} "
            f"FOR EACH {each} EXECUTE FUNCTION {table}_refuse()"
        )
