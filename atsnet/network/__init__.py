"""The network of ATS-Net, one concept a file."""
