"""HTTP: ingest gateway, query views, live page. Reads tables, never writes them."""
