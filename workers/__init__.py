"""Workers on Ray: the pool that wraps the library's worker in actors, and cluster files."""
