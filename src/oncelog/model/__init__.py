"""The words of the house: ids, error codes, record batches, durable rows, limits. Knows nothing above it."""
