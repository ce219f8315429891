"""Offline: tables of accepted rows, the point-in-time rule, engines that follow it, and training sets."""
