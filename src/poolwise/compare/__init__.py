"""Finished runs, read together: statistics, figure, report."""
