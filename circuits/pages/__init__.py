"""HTML pages of several pictures and tables."""
