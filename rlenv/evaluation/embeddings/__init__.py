"""Figure 3: session embeddings, who makes them, and their neighbours."""
