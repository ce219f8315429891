"""The server: handlers from bytes to bytes, the transports that carry them, and the processes that run them."""
