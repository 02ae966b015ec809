"""The computational graph of a model: its nodes and edges, and their names."""
