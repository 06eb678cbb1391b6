"""Frozen values that the rooms hand to each other, and the laws that bind them."""
