"""Sessions files: reading, checking, importing and summarizing them, and lexical statistics."""
