"""Pairs of a clean and a corrupted prompt: checked, read from JSON lines or a task, and written."""
