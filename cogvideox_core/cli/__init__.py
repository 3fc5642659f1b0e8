"""The command `cogvideox`."""
