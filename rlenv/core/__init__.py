"""What everything stands on: records, errors, seeds, protocols, files. Knows neither torch nor Ray."""
