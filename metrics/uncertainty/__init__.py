"""Uncertainty metrics of one pass, one family a module. Each takes the signals of one record and returns one score."""
