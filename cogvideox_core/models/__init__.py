"""The networks, and what the released models are: configurations, variants, sizes. Import from the modules below."""
