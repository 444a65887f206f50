"""How well a trained network detects and localises: metrics, tables and pictures."""
