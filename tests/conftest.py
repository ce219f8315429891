"""Lets every test import the oracle beside this file."""
