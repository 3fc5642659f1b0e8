"""The demo world: rendered clips with captions, which the demo models were trained on."""
