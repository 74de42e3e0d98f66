"""The scripted chatbots of the reference population and their failure habits."""
