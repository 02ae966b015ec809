"""A circuit is a claim; here are the tests of it."""
