"""The online store: rows ready to be sent, kept by a store backend, read by plan."""
