"""Who sits in a seat: models on an engine, endpoints, callables and scripted stand-ins."""
