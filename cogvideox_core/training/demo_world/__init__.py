"""The small rendered world that the demo models were trained on."""
