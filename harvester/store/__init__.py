"""Stores: what holds a lake's objects."""
