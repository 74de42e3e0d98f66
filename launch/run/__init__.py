"""The parts that every run has: configuration, directory, contents, engines, speakers, progress and tracking."""
