"""The history of the tables, as Alembic keeps it; `service.records.migration` runs it."""
