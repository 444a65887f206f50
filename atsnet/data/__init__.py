"""Images to train and test on: folders, procedural grains."""
