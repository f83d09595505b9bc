"""Second opinions: models of the transitions, recordings, golden files, generated content."""
