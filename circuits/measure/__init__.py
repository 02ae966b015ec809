"""Measurements of nodes and edges: many forward passes for one question, divided into pieces and stored."""
