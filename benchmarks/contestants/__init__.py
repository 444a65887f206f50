"""What can be compared with the service: each inspects the same images with the same network behind HTTP."""
