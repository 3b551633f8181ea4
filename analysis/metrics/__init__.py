"""Distances, scores, intervals, and the networks of others that features come from."""
