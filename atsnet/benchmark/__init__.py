"""Every method on every part with every seed, in the same frame: tables and charts of what each one finds."""
