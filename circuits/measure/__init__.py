"""Measuring what nodes and edges do: many forward passes of one question, divided and stored."""
