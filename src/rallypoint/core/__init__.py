"""The pure heart: facts in, orders out; no input, no output, no clock."""
