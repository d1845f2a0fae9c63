"""How programs run: the torch reference, the module, the population trainer."""
