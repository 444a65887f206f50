"""Two-stage training on defect-free images, and what it leaves on disk."""
