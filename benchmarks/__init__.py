"""What the project's figures were measured with; run from the repository's root."""
