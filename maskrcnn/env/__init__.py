"""What this machine is: `python -m maskrcnn.env` prints it."""

from maskrcnn.env.machine import available_cores, cpu_features, facts, peak_memory, pick_device, summary

__all__ = ["available_cores", "cpu_features", "facts", "peak_memory", "pick_device", "summary"]
