"""What writes files that are shipped: example workflows, pictures, pages; and what judges the demo models."""
