"""The table of inspections."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "inspections",
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request_key", sa.Text),
        sa.Column("station", sa.Text),
        sa.Column("lot", sa.Text),
        sa.Column("serial", sa.Text),
        sa.Column("trigger", sa.BigInteger),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("recipe_version", sa.Integer, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("result", sa.Integer, nullable=False),
        sa.Column("code", sa.Integer, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("score", sa.Float(53)),
        sa.Column("raw_score", sa.Float(53)),
        sa.Column("threshold", sa.Float(53), nullable=False),
        sa.Column("regions", sa.JSON, nullable=False),
        sa.Column("timing", sa.JSON, nullable=False),
        sa.Column("image_sha256", sa.String(64), nullable=False),
        sa.Column("image_width", sa.Integer, nullable=False),
        sa.Column("image_height", sa.Integer, nullable=False),
        sa.Column("layout", sa.JSON, nullable=False),
        sa.Column("detail", sa.Text),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("request_key"),
    )
    for column in ("created", "station", "lot", "serial"):
        op.create_index(f"ix_inspections_{column}", "inspections", [column])
