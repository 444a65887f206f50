"""What runs the network: one protocol, one file a runtime."""
