"""Bulle: an open secure research workspace."""
