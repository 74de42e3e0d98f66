"""The scripted chatbots and their faults."""
