"""Stores: where a lake is kept."""
