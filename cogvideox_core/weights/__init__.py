"""Weight files: opening and recognising them, models from them, LoRAs, conversion and writing."""
