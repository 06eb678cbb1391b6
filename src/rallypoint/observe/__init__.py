"""Watchers: they are told of every decision and cannot answer."""
