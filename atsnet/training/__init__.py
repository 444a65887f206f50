"""Training on defect-free images, in stages, and what it leaves on disk."""
