"""Rows in and through: accepting them, pulling sources, folding the log, filling the online store, replaying history."""
