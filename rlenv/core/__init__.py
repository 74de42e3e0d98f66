"""The base layer: records, errors, seeds, protocols, files, settings. Independent of torch and Ray."""
