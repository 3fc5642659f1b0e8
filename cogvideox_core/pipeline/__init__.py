"""From a prompt to a video: requests, model folders, conditioning, offloading."""
