"""The `atsnet` command: the one place that knows the detector, the export and the service."""
