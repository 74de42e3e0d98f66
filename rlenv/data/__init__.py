"""Sessions as files: reading, checking, importing, summarizing, and the words in them."""
