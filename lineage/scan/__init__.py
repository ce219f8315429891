"""Finds what a repository reads: features, feature services and tables in Python, notebooks, SQL and configuration files.

from lineage.scan import scan

found = scan("services/delay")
for reference in found.references:
print(reference.file, reference.line, reference.ref)
"""

from lineage.scan.references import Confidence, Reference, Scan, Unread, Unresolved, as_sarif
from lineage.scan.scanning import scan

__all__ = ["Confidence", "Reference", "Scan", "Unread", "Unresolved", "as_sarif", "scan"]
