"""What every run has: its configuration, directory, contents, engines, speakers, progress and tracking."""
