"""The report of a run: one HTML page with curves, tables, errors, pictures and the config."""
