"""What a run knows of people: model cards, the audit, and forgetting a person."""
