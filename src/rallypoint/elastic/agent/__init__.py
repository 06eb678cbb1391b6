"""What runs workers on one node."""
