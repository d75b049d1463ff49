"""Consumer groups: classic, KIP-848, committed offsets, server-side assignors."""
