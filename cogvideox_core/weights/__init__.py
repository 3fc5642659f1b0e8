"""Weight files: opening and recognizing them, models from them, LoRAs, conversion and writing."""
