"""What the nodes can do without. Each module installs itself with `install()`; `installation` calls them all."""
