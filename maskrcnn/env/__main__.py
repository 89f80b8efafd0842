"""`python -m maskrcnn.env`: the same as `maskrcnn env`."""

from maskrcnn.env import summary

print(summary())
