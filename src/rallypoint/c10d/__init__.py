"""A server that speaks the wire protocol of torch's TCPStore to the workers."""
