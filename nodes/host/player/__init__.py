"""What the video player node writes, and the settings it shows."""
