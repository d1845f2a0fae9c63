"""Pools: where proxies are trained. In this process, in local processes, on Ray."""
