"""What is registered: an immutable snapshot, the plan of a change, and the database that keeps every commit."""
