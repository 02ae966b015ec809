"""Sparse dictionaries of activations: sparse autoencoders and transcoders, their files, and their insertion into a model."""
