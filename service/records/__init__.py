"""The records: what was inspected and decided, kept for traceability."""
