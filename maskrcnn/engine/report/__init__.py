"""The report of a run: one page with its curves, its results and what it was made from."""
