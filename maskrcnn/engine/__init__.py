"""Runs: training, evaluation, prediction."""
