"""Measurements of our code next to others, in one process and one run."""
