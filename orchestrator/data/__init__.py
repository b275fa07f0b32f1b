"""Schemas, ingest, pseudonyms, the encrypted store, views."""
