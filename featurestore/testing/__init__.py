"""For those who extend the store: conformance suites for backends, and projects in a folder for tests."""
