"""What a run is besides the article: flags, snapshots, exact resume, what the terminal shows."""
