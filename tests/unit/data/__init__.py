"""Schemas, ingest, catalogue, views."""
