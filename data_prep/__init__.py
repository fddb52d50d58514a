"""Raw interactions to a prepared folder: download, parsing, filters, ids, split and evaluation sets. Knows nothing of JAX."""
