"""From sources to batches: texts, tokens, masks, length-grouped batches."""
