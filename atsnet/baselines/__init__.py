"""Published methods in the frame of ATS-Net: the same trunk, frames, scores and metrics."""
