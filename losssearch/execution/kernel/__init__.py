"""Many losses on many rows at once, without torch: compiled loops, an instruction table, an interpreter."""
