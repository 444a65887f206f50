"""A backbone of our own: the ResNet-18 trunk trained without any outside data."""
