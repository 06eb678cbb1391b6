"""Worker processes: starting, watching, signalling and sweeping up after them."""
