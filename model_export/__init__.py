"""From a trained checkpoint to a bundle: everything that the service needs to inspect."""
