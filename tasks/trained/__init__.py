"""Models that were trained by a script of this repository, and whose weights are shipped."""
