"""The auditor: counts the topics for itself and holds the engine's ledger against them.

It shares no counting code with the engine: what it needs of layouts (offset metadata,
headers, chunks, rows) it reads with its own few lines.
"""
