"""Live previews of the clip while it is sampled."""
