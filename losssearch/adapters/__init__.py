"""How does a loss enter someone else's training? One file a framework, which it alone imports."""
