"""Reading runs without changing them: listings and summaries."""
