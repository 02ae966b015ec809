"""Tests of circuits and scores."""
