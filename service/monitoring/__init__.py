"""Whether the parts, the light and the optics are still those that a recipe was calibrated on."""
