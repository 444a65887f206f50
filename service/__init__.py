"""The inspection service: images in over HTTP, verdicts out."""
