"""Which face of its part an inspection of a batch was of."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns; of what is recorded already, nobody knows."""
    for name in ("face", "faces"):
        op.add_column("inspections", sa.Column(name, sa.Integer))
