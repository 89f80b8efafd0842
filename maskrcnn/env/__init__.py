"""What this machine is: `python -m maskrcnn.env` prints it."""

from maskrcnn.env.machine import cpu_features, peak_memory, pick_device, summary

__all__ = ["cpu_features", "peak_memory", "pick_device", "summary"]
