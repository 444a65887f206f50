"""ATS-Net: an asymmetric teacher-student detector that learns anomalies from good parts alone."""

__version__ = "0.1.0"
